from detfuse.cli import cost

cost()
