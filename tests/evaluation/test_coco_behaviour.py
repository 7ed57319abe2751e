"""What the evaluator does with empty, odd and wrong input, and how it shows its numbers."""

import copy
import json
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch

from detfuse.annotations import Results
from detfuse.evaluation import (
    METRICS,
    CocoEvaluator,
    annotations_of,
    coco_results,
    read_results,
    rows_of,
    write_results,
)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"iscrowd": value}, "annotation 0: iscrowd must be 0 or 1, got ") for value in ("0", float("nan"), [1], 2)),
        ({"area": 1e308}, r"annotation 0: area is 1e\+308, expected square pixels of an object"),
    ],
)
def test_what_has_no_one_reading_is_refused(change, message):
    given = truth()
    given["annotations"][0].update(change)
    with pytest.raises(ValueError, match=message):
        annotations_of(given)


def test_missing_area_and_iscrowd_have_defaults(evaluator):
    given = truth()
    del given["annotations"][0]["area"], given["annotations"][0]["iscrowd"]
    assert CocoEvaluator(given, engine=evaluator.engine).evaluate([row()]).stats == evaluator.evaluate([row()]).stats


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 77}, r"prediction row 1: image id 77 is not in the ground truth \(1 such rows"),
        ({"category_id": 3}, "prediction row 1: category id 3 is not in the ground truth"),
        ({"image_id": True}, "prediction row 1: image id True is not in any ground truth"),
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
        (lambda t: t["annotations"][1].update(image_id=True), "annotation 1: image id True is not in the ground truth"),
        (lambda t: t["annotations"][1].update(category_id=4), "annotation 1: category id 4 is not in"),
        (lambda t: t["annotations"][1].pop("bbox"), "annotation 1: 'bbox' is missing"),
        (lambda t: t.pop("categories"), "'categories' is missing"),
        (lambda t: t.update(images=None), "'images' is no list"),
        (lambda t: t["annotations"][1].update(bbox=[0, 0, 10**400, 1]), "annotation 1: bbox is .*expected numbers"),
        (lambda t: t["annotations"][1].update(area="large"), "annotation 1: area is 'large', expected numbers"),
        (lambda t: t["annotations"].append(7), "annotation 2: expected an object, got 7"),
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
    with pytest.raises(ValueError, match="engine must be hotcoco or pycocotools, got 'coco'"):
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


CATEGORIES = Categories((3, 8), ("a", "b"))


def detections(boxes=(), scores=(), labels=()):
    labels = torch.tensor(labels, dtype=torch.int64)
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), labels, torch.zeros_like(labels))


def test_detections_become_results_with_exact_sizes():
    found = detections([[1.5, 2.0, 11.25, 5.0], [0.1, 0.2, 0.7, 0.9]], [0.75, 0.5], [1, 0])
    before = found.boxes.clone()
    results = coco_results({17: found, 4: detections(), 9: found}, CATEGORIES)
    assert results.ids == (17, 4, 9)
    rows = list(rows_of(results))
    assert rows[0] == {"image_id": 17, "category_id": 8, "bbox": [1.5, 2.0, 9.75, 3.0], "score": 0.75}
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(17, 8), (17, 3), (9, 8), (9, 3)]
    x1, _, x2, _ = before[1].double().tolist()
    assert rows[1]["bbox"][2] == x2 - x1
    assert torch.equal(found.boxes, before)
    assert list(rows_of(coco_results({17: found._replace(boxes=found.boxes.double())}, CATEGORIES))) == rows[:2]


@pytest.mark.parametrize("found", [{}, {1: detections()}])
def test_no_detections_give_no_rows(found, tmp_path):
    results = coco_results(found, CATEGORIES)
    assert (len(results), list(rows_of(results)), results.ids) == (0, [], tuple(found))
    write_results(tmp_path / "none.json", results)
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert len(read_results(tmp_path / "none.json")) == 0


def test_a_file_holds_results_to_the_last_bit(tmp_path):
    """Whatever the ids; and it is the rows that other programs read."""
    found = detections([[0.1, 0.2, 0.7, 0.9], [0.3, 0.3, 99.1, 7.7]], [0.1, 0.3], [1, 0])
    results = coco_results({"帧 1": found, "2": found}, CATEGORIES)
    path = tmp_path / "predictions.json"
    write_results(path, results)
    assert json.loads(path.read_text(encoding="utf-8")) == list(rows_of(results)) == list(rows_of(read_results(path)))
    broken = coco_results({1: found._replace(scores=torch.tensor([0.5, float("nan")]))}, CATEGORIES)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(path, broken)
    assert len(read_results(path)) == 4


def test_what_else_a_file_says_of_a_row_is_of_no_account(tmp_path):
    mask = {"size": [2, 2], "counts": "x", "score": 1}
    rows = [row(segmentation=mask, file_name="a.jpg"), {"meta": {"image_id": 7}} | row(score=1)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert list(rows_of(read_results(tmp_path / "rows.json"))) == [row(), row(score=1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "no JSON"),
        ("{}", "expected a list of COCO result rows"),
        ('{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}', "expected a list of COCO result rows"),
        ("[null]", "row 0 is None"),
        ("[[{}]]", r"row 0 is \[{}\]"),
        ('[{"row": ROW}]', "prediction row 0: 'image_id' is missing"),
        ("[ROW, {}, {}]", r"prediction row 1: 'image_id' is missing \(it has nothing\)"),
        ('[{"meta": ROW, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}]', "inside other records"),
        ('[{"image_id": 1, "category_id": {}, "bbox": [1, 2, 3, 4], "score": 1}]', "row 0: category id {} is not in"),
        ('[ROW, {"image_id": 1, "category_id": 2, "bbox": "abcd", "score": 1}]', "row 1: bbox is 'abcd', expected num"),
        ('[{"image_id": 1, "category_id": 2, "bbox": {"x": 1}, "score": 1}]', "row 0: bbox is .*four numbers"),
        (
            '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": "0.5"}]',
            "row 0: score is '0.5', expected",
        ),
        (
            '[ROW, {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": NaN}]',
            r"row 1 \(image 7\): score is",
        ),
    ],
)
def test_a_file_that_holds_no_results_is_named(tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text.replace("ROW", json.dumps(row())))
    with pytest.raises(ValueError, match=r"rows\.json: .*" + message):
        read_results(path)


def test_results_know_their_images_and_categories_by_the_files_ids(evaluator):
    """Not by position: in whatever order they come, and whether or not all are there."""
    image_5, image_1 = detections([[0.0, 0, 9, 9]], [0.9], [0]), detections([[10.0, 10, 30, 30]], [0.5], [1])
    results = coco_results({5: image_5, 1: image_1}, Categories((9, 2), ("dog", "cat")))
    assert evaluator.evaluate(results) == evaluator.evaluate(list(rows_of(results)))
    assert evaluator.evaluate(results).stats["mAP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="prediction row 1: image id 3 is not in the ground truth"):
        evaluator.evaluate(coco_results({5: image_5, 3: image_1}, Categories((9, 2), ("dog", "cat"))))
    with pytest.raises(ValueError, match="prediction row 0: category id 8 is not in the ground truth"):
        evaluator.evaluate(coco_results({5: image_5}, Categories((8,), ("dog",))))


def test_parts_are_joined_by_image_id():
    def part(**scores):
        found = {name: detections([[0.0, 0, 1, 1]] * len(s), s, [0] * len(s)) for name, s in scores.items()}
        return coco_results(found, CATEGORIES)

    whole = Results.joined([part(d=[0.5, 0.25], b=[]), part(c=[0.75], d=[1.0], a=[0.125])])
    assert whole.ids == ("a", "b", "c", "d")
    assert [(whole.ids[i], s) for i, s in zip(whole.images, whole.scores, strict=True)] == [
        ("a", 0.125),
        ("c", 0.75),
        ("d", 0.5),
        ("d", 0.25),
    ]
    assert [rows.tolist() for rows in whole.by_image()] == [[0], [], [1], [2, 3]]


def test_the_file_ids_decide_the_order_of_the_images():
    """Texts, too: where scores are equal, the image with the lower id ranks first."""
    box = {"bbox": [0.0, 0, 20, 20], "category_id": 2}
    given = {
        "images": [{"id": "10"}, {"id": "2"}],
        "categories": truth()["categories"],
        "annotations": [{"id": 1, "image_id": "10"} | box],
    }
    rows = [{"image_id": name, "score": 0.5} | box for name in ("2", "10")]
    columns = annotations_of(given)
    assert columns.ids == ("10", "2")
    in_file_order = replace(columns, ids=("2", "10"), offsets=np.array([0, 0, 1]))
    for engine in ENGINES:
        for ground_truth in (given, columns, in_file_order):
            assert CocoEvaluator(ground_truth, engine=engine).evaluate(rows).stats["mAP"] == pytest.approx(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_installed_is_named_with_the_other(engine, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ValueError, match=f"{engine} is not installed.*evaluation.engine="):
        CocoEvaluator(truth(), engine=engine)
