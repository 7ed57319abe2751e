"""What the attentions of several papers share."""
