"""Data sets as batches: annotations, images, transforms, loaders."""

from detfuse.data.collate import collate
from detfuse.data.datamodule import CocoDataModule, FarCueDataModule, FolderDataModule, SyntheticDataModule
from detfuse.data.images import load_image
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.data.layout import NoSplitError
from detfuse.data.loader import Loader
from detfuse.data.readers import read_coco
from detfuse.data.scene import Objects, Sample, Scene
from detfuse.data.splits import DetectionDataModule
from detfuse.data.transforms import Transforms
from detfuse.data.writing import coco_of

__all__ = [
    "AnnotationIndex",
    "CocoDataModule",
    "DataError",
    "DataWarning",
    "DetectionDataModule",
    "FarCueDataModule",
    "FolderDataModule",
    "Loader",
    "NoSplitError",
    "Objects",
    "Sample",
    "Scene",
    "SyntheticDataModule",
    "Transforms",
    "coco_of",
    "collate",
    "load_image",
    "read_coco",
]
