"""Checkpoints of this program, and weights of others."""

from detfuse.weights.checkpoint import Checkpoint, CheckpointError, load_weights, read_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "load_weights", "read_checkpoint"]
