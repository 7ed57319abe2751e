"""What a detector is and costs."""
