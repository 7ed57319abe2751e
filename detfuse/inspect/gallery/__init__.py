"""A data set as a page to look at."""

from detfuse.inspect.gallery.cards import Card, cards_of
from detfuse.inspect.gallery.page import gallery

__all__ = ["Card", "cards_of", "gallery"]
