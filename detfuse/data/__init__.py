"""From annotation files to padded uint8 batches."""
