"""Figures of the docs that come from real runs."""
