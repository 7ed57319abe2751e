"""COCO metrics of detections; the only room that knows the COCO engines."""

from detfuse.evaluation.coco import CocoEvaluator, coco_results
from detfuse.evaluation.ground_truth import annotations_of, read_annotations
from detfuse.evaluation.metrics import METRICS, CocoMetrics
from detfuse.evaluation.results import read_results, results_of, rows_of, write_results

__all__ = [
    "METRICS",
    "CocoEvaluator",
    "CocoMetrics",
    "annotations_of",
    "coco_results",
    "read_annotations",
    "read_results",
    "results_of",
    "rows_of",
    "write_results",
]
