"""Heads: forward, loss, candidates."""
