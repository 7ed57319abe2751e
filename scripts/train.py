from detfuse.cli import train

train()
