"""The run folder: how it is named, claimed and found again, and what a run was made with."""
