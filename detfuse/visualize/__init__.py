"""Boxes on pictures, fusion graphs, charts."""
