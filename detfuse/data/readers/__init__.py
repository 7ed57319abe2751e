"""Annotation files: a reader per format makes records of a file, :func:`index_of` checks them, whatever the format."""

from detfuse.data.readers.coco import read_coco
from detfuse.data.readers.records import BoxRecord, CategoryRecord, ImageRecord, Records, index_of

__all__ = ["BoxRecord", "CategoryRecord", "ImageRecord", "Records", "index_of", "read_coco"]
