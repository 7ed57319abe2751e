from detfuse.cli import data

data()
