"""The axes of fusion: operators, resampling, blocks, and the topology as data."""
