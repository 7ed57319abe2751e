"""COCO metrics of detections; the only room that knows the COCO engines."""

from detfuse.evaluation.coco import CocoEvaluator, coco_results
from detfuse.evaluation.metrics import METRICS, CocoMetrics
from detfuse.evaluation.records import read_annotations, read_results, rows_of, write_results

__all__ = [
    "METRICS",
    "CocoEvaluator",
    "CocoMetrics",
    "coco_results",
    "read_annotations",
    "read_results",
    "rows_of",
    "write_results",
]
