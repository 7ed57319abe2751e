"""Boxes on pictures, fusion graphs."""
