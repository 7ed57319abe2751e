"""Boxes, anchors, matching and post-processing: thin, over ``torchvision.ops``."""
