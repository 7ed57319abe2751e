from detfuse.cli import export

export()
