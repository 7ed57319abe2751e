"""Checkpoints: of this project, and of other libraries."""
