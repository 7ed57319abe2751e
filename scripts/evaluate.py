from detfuse.cli import evaluate

evaluate()
