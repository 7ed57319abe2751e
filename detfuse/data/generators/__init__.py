"""Generated data sets: what one depends on -> a canvas per image -> files in COCO's form."""

from detfuse.data.generators.canvas import Canvas
from detfuse.data.generators.far_cue import FarCue
from detfuse.data.generators.generated import GeneratedData, generate
from detfuse.data.generators.shapes import Shapes

__all__ = ["Canvas", "FarCue", "GeneratedData", "Shapes", "generate"]
