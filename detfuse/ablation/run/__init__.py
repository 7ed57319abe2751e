"""The runs of a plan, each in a process of its own."""
