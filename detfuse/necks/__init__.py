"""Topologies and what executes them, and the few necks that are no graph."""
