"""Feature extractors of timm and torchvision that report their FeatureSpec."""
