from detfuse.cli import compare

compare()
