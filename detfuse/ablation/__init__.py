"""The laboratory: an ablation from its plan to a verdict with an interval."""
