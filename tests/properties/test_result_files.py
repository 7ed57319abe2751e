"""Result files and ground truths of whatever program are scored as they stand, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile import json_files
from hypothesis import given
from test_annotation_files import assert_told

from detfuse.errors import InputError
from detfuse.evaluation import CocoEvaluator, read_annotations, read_results
from detfuse.evaluation.metrics import UNDEFINED

RESULTS = [
    {"image_id": 1, "category_id": 3, "bbox": [2, 3.5, 10, 8], "score": 0.9},
    {"image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 12], "score": 0.9},
    {"image_id": 2, "category_id": 3, "bbox": [0.25, 0, 0, 0], "score": 1},
]
TRUTH: dict[str, Any] = {
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [2, 3.5, 10, 8], "area": 60.5, "iscrowd": 0},
        {"id": 6, "image_id": 2, "category_id": 7, "bbox": [-4, 0, 9, 12], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@given(truth=json_files(TRUTH))
def test_whatever_a_ground_truth_holds(folder: Path, truth: bytes) -> None:
    (folder / "truth.json").write_bytes(truth)
    try:
        evaluator = CocoEvaluator(read_annotations(folder / "truth.json"))
    except InputError as error:
        assert_told(str(error), "truth.json")
        return
    found = evaluator.evaluate([])
    assert all(value in (0.0, UNDEFINED) for value in found.stats.values())
    found.class_table()


@given(results=json_files(RESULTS))
def test_whatever_a_result_file_holds(folder: Path, results: bytes) -> None:
    (folder / "results.json").write_bytes(results)
    try:
        read = read_results(folder / "results.json")
    except InputError as error:
        assert_told(str(error), "results.json")
        return
    try:
        found = CocoEvaluator(TRUTH).evaluate(read)
    except InputError as error:  # images or categories that are not there
        assert_told(str(error), "prediction row")
        return
    assert all(value == UNDEFINED or 0 <= value <= 1 for value in found.stats.values())
