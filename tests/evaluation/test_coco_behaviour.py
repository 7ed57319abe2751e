"""What the evaluator does with empty, odd and wrong input, and how it shows its numbers."""

import copy
import json

import pytest
import torch

from detfuse.evaluation import METRICS, CocoEvaluator, coco_results
from detfuse.structures import Categories, Detections

ENGINES = ("hotcoco", "pycocotools")


def truth():
    """Image 1 has a small cat and a large crowd of cats, image 5 nothing; there are no dogs."""
    return {
        "images": [{"id": 5}, {"id": 1}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 1, "category_id": 2, "bbox": [10, 10, 20, 20], "area": 400.0, "iscrowd": 0},
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [100, 0, 99, 99], "area": 9801.0, "iscrowd": 1},
        ],
    }


def row(**changes):
    return {"image_id": 1, "category_id": 2, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.5} | changes


@pytest.fixture(params=ENGINES)
def evaluator(request):
    return CocoEvaluator(truth(), engine=request.param)


def test_a_perfect_detection_scores_one(evaluator):
    metrics = evaluator.evaluate([row()])
    assert tuple(metrics.stats) == METRICS
    assert metrics.stats["mAP"] == pytest.approx(1)
    assert metrics.stats["APs"] == pytest.approx(1)
    assert metrics.stats["APm"] == metrics.stats["APl"] == -1
    assert list(metrics.per_class) == ["cat", "dog"]
    assert metrics.per_class["cat"]["AP50"] == pytest.approx(1)
    assert set(metrics.per_class["dog"].values()) == {-1.0}
    assert metrics.num_objects == {"cat": 1, "dog": 0}


def test_detections_on_a_crowd_count_neither_way(evaluator):
    on_crowd = row(bbox=[110, 10, 20, 20], score=0.9)
    alone, together = evaluator.evaluate([row()]).stats, evaluator.evaluate([on_crowd, row()]).stats
    assert together.pop("AR1") == 0  # one detection per image: the better one is that on the crowd
    assert alone.pop("AR1") == 1
    assert together == alone


def test_detections_in_an_image_without_objects_are_false(evaluator):
    assert evaluator.evaluate([row(), row(image_id=5, score=0.9)]).stats["mAP"] == pytest.approx(0.5)


def test_no_predictions_give_zero_where_there_is_something_to_find(evaluator):
    stats = evaluator.evaluate([]).stats
    assert {name for name, value in stats.items() if value == -1} == {"APm", "APl", "ARm", "ARl"}
    assert {value for value in stats.values() if value != -1} == {0.0}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("predictions", [[], [row()]])
def test_no_ground_truth_is_undefined(engine, predictions):
    metrics = CocoEvaluator(truth() | {"annotations": []}, engine=engine).evaluate(predictions)
    assert set(metrics.stats.values()) == {-1.0}
    assert "n/a" in metrics.table()


def test_nothing_is_printed_and_no_input_changed(evaluator, capfd):
    predictions = [row(), row(image_id=5)]
    before = copy.deepcopy(predictions)
    evaluator.evaluate(predictions)
    evaluator.evaluate([])
    assert predictions == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ground_truth_is_not_changed(engine):
    given = truth()
    CocoEvaluator(given, engine=engine).evaluate([row()])
    assert given == truth()


def test_missing_area_and_iscrowd_have_defaults(evaluator):
    given = truth()
    del given["annotations"][0]["area"], given["annotations"][0]["iscrowd"]
    assert CocoEvaluator(given, engine=evaluator.engine).evaluate([row()]).stats == evaluator.evaluate([row()]).stats


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 77}, r"prediction row 1: image id 77 is not in the ground truth \(1 such rows"),
        ({"category_id": 3}, "prediction row 1: category id 3 is not in the ground truth"),
        ({"score": float("nan")}, r"prediction row 1 \(image 1\): score is nan.*diverged"),
        ({"bbox": [0, 0, float("inf"), 1]}, r"prediction row 1: bbox is \[0.0, 0.0, inf, 1.0\]"),
        ({"bbox": [9, 9, -1, 1]}, r"prediction row 1: .*corners"),
        ({"bbox": [1, 2, 3]}, "prediction row 1: .*four numbers"),
    ],
)
def test_wrong_predictions_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(truth()).evaluate([row(), row(**changes)])


def test_a_prediction_without_score_is_named():
    broken = row()
    del broken["score"]
    with pytest.raises(ValueError, match="prediction row 1: 'score' is missing"):
        CocoEvaluator(truth()).evaluate([row(), broken])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["annotations"][1].update(id=0), "annotation id given twice: 0"),
        (lambda t: t["images"][1].update(id=5), "image id given twice: 5"),
        (lambda t: t["categories"][1].update(id=9), "category id given twice: 9"),
        (lambda t: t["categories"][1].update(name="dog"), "category name given twice: dog"),
        (lambda t: t["annotations"][1].update(bbox=[0, 0, float("nan"), 1]), "annotation 1: bbox is .*nan"),
        (lambda t: t["annotations"][1].update(area=float("nan")), "annotation 1: area is nan"),
        (lambda t: t["annotations"][1].update(area=-1), "annotation 1: area is -1"),
        (lambda t: t["annotations"][1].update(image_id=4), "annotation 1: image id 4 is not in the ground truth"),
        (lambda t: t["annotations"][1].update(category_id=4), "annotation 1: category id 4 is not in"),
        (lambda t: t["annotations"][1].pop("bbox"), "annotation 1: 'bbox' is missing"),
        (lambda t: t.pop("categories"), "'categories' is missing"),
        (lambda t: t["images"].clear(), "'images' is empty"),
        (lambda t: t["categories"].clear(), "'categories' is empty"),
    ],
)
def test_wrong_ground_truth_is_named(change, message):
    given = truth()
    change(given)
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(given)


def test_unknown_engine():
    with pytest.raises(ValueError, match="'coco', expected hotcoco or pycocotools"):
        CocoEvaluator(truth(), engine="coco")


def test_table_names_engine_numbers_and_undefined(evaluator):
    lines = evaluator.evaluate([row()]).table().splitlines()
    assert lines[0].startswith(f"COCO box metrics by {evaluator.engine} ")
    assert "2 images, 1 objects, 1 detections" in lines[0]
    assert lines[3].split() == ["mAP", "average", "precision", "0.50:0.95", "all", "100", "1.0000"]
    assert lines[8].split()[-4:] == ["0.50:0.95", "large", "100", "n/a"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines) == 15


def test_class_table_has_a_row_per_class(evaluator):
    lines = evaluator.evaluate([row()]).class_table().splitlines()
    assert lines[2].split() == ["cat", "1", "1.0000", "1.0000", "1.0000", "1.0000", "n/a", "n/a", "1.0000"]
    assert lines[3].split()[:3] == ["dog", "0", "n/a"]
    assert len({len(line) for line in lines}) == 1


def test_as_dict_is_strict_json(evaluator):
    metrics = evaluator.evaluate([])
    plain = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert plain == metrics.as_dict()
    assert plain["stats"]["APl"] == plain["undefined"] == -1


def test_results_are_coco_rows():
    boxes = torch.tensor([[1.5, 2.0, 11.25, 5.0], [0.1, 0.2, 0.7, 0.9]])
    labels = torch.tensor([1, 0])
    detections = Detections(boxes, torch.tensor([0.75, 0.5]), labels, torch.zeros(2, dtype=torch.int64))
    rows = coco_results(detections, 17, Categories((3, 8), ("a", "b")))
    assert rows[0] == {"image_id": 17, "category_id": 8, "bbox": [1.5, 2.0, 9.75, 3.0], "score": 0.75}
    assert rows[1]["category_id"] == 3
    x1, _, x2, _ = boxes[1].double().tolist()
    assert rows[1]["bbox"][2] == x2 - x1
    assert json.loads(json.dumps(rows)) == rows
    assert torch.equal(boxes[0], torch.tensor([1.5, 2.0, 11.25, 5.0]))
    double = detections._replace(boxes=boxes.double())
    coco_results(double, 17, Categories((3, 8), ("a", "b")))
    assert torch.equal(double.boxes, boxes.double())


def test_no_detections_give_no_rows():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0).long())
    assert coco_results(empty, 1, Categories((1,), ("a",))) == []
