from detfuse.cli import ablate

ablate()
