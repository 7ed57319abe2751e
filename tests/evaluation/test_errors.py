"""Each kind of error is counted as what it is."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from detfuse.evaluation.errors import ERROR_TYPES, Errors, error_types

BOX = [10.0, 10.0, 50.0, 50.0]


def truth(*annotations: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": BOX, "area": 2500.0, "iscrowd": 0, **row}
        for i, row in enumerate(annotations)
    ]
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}],
        "annotations": rows,
    }


def row(bbox: list[float] = BOX, score: float = 0.9, category: int = 3, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


def errors_of(ground_truth: dict[str, Any], rows: list[dict[str, Any]]) -> Errors:
    errors = error_types(ground_truth, rows)
    assert errors is not None
    return errors


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row()], []),
        ([row(category=8)], ["classification"]),
        ([row([30.0, 10.0, 50.0, 50.0])], ["localisation"]),
        ([row([30.0, 10.0, 50.0, 50.0], category=8)], ["both", "missed"]),
        ([row(), row(score=0.8)], ["duplicate"]),
        ([row(), row([200.0, 200.0, 9.0, 9.0])], ["background"]),
        ([], ["missed"]),
    ],
)
def test_errors_are_sorted_by_type(rows: list[dict[str, Any]], expected: list[str]) -> None:
    errors = errors_of(truth({}), rows)
    assert tuple(errors.count) == tuple(errors.cost) == ERROR_TYPES
    assert [name for name, count in errors.count.items() if count] == expected


def test_the_cost_is_what_putting_them_right_would_gain() -> None:
    errors = errors_of(
        truth({}, {"image_id": 2, "category_id": 8}), [row(category=8, image=2), row(category=8, score=0.5)]
    )
    assert errors.cost["classification"] == pytest.approx(0.5)
    assert errors.cost["background"] == 0


@pytest.mark.parametrize("annotations", [[], [{"iscrowd": 1}]])
def test_without_objects_costs_are_undefined(annotations: list[dict[str, Any]]) -> None:
    errors = errors_of(truth(*annotations), [row(image=2)])
    assert set(errors.cost.values()) == {None}
    assert errors.count["background"] == 1


def test_without_hotcoco_they_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert error_types(truth({}), [row()]) is None
    with pytest.raises(ValueError, match="image id 9 is not in the ground truth"):
        error_types(truth({}), [row(image=9)])
