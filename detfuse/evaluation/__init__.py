"""COCO metrics of detections; the only room that knows the COCO engines."""

from detfuse.evaluation.coco import METRICS, CocoEvaluator, CocoMetrics, coco_results

__all__ = ["METRICS", "CocoEvaluator", "CocoMetrics", "coco_results"]
