"""The run folder: how it is named, claimed, continued and read; what a command does with a stored run."""
