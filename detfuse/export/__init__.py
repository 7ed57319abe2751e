"""Detectors as files that need no detfuse: ONNX, and torch's exported programs (``.pt2``)."""

from detfuse.export.comparison import Agreement, NamedImage, agreement_of
from detfuse.export.deployed import OUTPUTS, Deployed, place
from detfuse.export.description import Description, ExportError, Resizing
from detfuse.export.exported import Exported, read_exported
from detfuse.export.formats import FORMATS, Format, format_of, program_of, written
from detfuse.export.scored import Scores, chosen, scores_of

__all__ = [
    "FORMATS",
    "OUTPUTS",
    "Agreement",
    "Deployed",
    "Description",
    "ExportError",
    "Exported",
    "Format",
    "NamedImage",
    "Resizing",
    "Scores",
    "agreement_of",
    "chosen",
    "format_of",
    "place",
    "program_of",
    "read_exported",
    "scores_of",
    "written",
]
