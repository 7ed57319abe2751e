"""Annotation files: a reader per format makes records of a file, :func:`index_of` checks them, whatever the format."""

from detfuse.data.readers.checked import Grouping, index_of
from detfuse.data.readers.coco import read_coco
from detfuse.data.readers.records import BoxRecord, CategoryRecord, ImageRecord, Records

__all__ = ["BoxRecord", "CategoryRecord", "Grouping", "ImageRecord", "Records", "index_of", "read_coco"]
