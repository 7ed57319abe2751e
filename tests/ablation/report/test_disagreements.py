"""The pictures of a report: the images on which the arms disagree most."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from fake_ablation import FakeAblation, make_ablation
from written import EVIL, Page

from detfuse.ablation.report import write_report
from detfuse.ablation.report.blocks import Figure, PictureRow
from detfuse.ablation.report.evidence import collect
from detfuse.ablation.report.objects import found_by, wanted
from detfuse.ablation.report.pictures import disagreements
from detfuse.evaluation import annotations_of, read_results, results_of
from detfuse.evaluation.results import matched_ids


def test_pictures_are_those_with_the_largest_spread(page: Page, fake: FakeAblation) -> None:
    text = page.sections["Where the arms disagree most"]
    found = [float(value) for value in re.findall(r"\(on average ([\d.]+)\)", text)]
    spreads = [max(found[i : i + 4]) - min(found[i : i + 4]) for i in range(0, len(found), 4)]
    assert len(spreads) == 5
    assert all(b <= a + 0.11 for a, b in pairwise(spreads)), "printed with one decimal"
    assert spreads[-1] > 0
    pictures = [a for tag, a in page.seen if tag == "img" and str(a["src"]).startswith("data:image/jpeg")]
    assert len(pictures) == 20


def test_an_image_that_is_gone_costs_no_report(fake: FakeAblation, again: Callable[..., Path]) -> None:
    content = (again(image_of=lambda image: Path(f"gone-{image}.jpg")) / "report.html").read_text(encoding="utf-8")
    assert "is not shown: gone-" in content
    assert "image/jpeg" not in content


def test_text_ids_change_nothing_but_the_names_of_the_images(folder: Path, tmp_path: Path) -> None:
    """As some files have them; in the order of the numbers, so that no tie is decided otherwise."""
    texts = make_ablation(tmp_path, rename={9: EVIL}, id_of="{}.photo".format)
    assert all(str(image_id).endswith(".photo") for image_id in texts.ground_truth.ids)
    other = write_report(*texts.arguments).parent
    for name in ("report.html", "report.md", "scores.csv", "differences.csv", "errors.csv"):
        numbers = (folder / name).read_text(encoding="utf-8")
        named, count = re.subn(r"\bImage (\d+), seed", r"Image \1.photo, seed", numbers)
        assert (count == 5) == name.startswith("report"), "one heading per row of pictures"
        assert (other / name).read_text(encoding="utf-8").replace(r"\.photo", ".photo") == named


def test_an_image_is_drawn_for_the_seed_in_which_the_arms_differ_most(fake: FakeAblation, page: Page) -> None:
    found = {arm: one.found for arm, one in collect(*fake.arguments[1:3], fake.ground_truth, read_results).items()}
    shared = set.intersection(*map(set, found.values()))
    text = page.sections["Where the arms disagree most"]
    drawn = re.findall(r"Image (\d+), seed (\d)((?:\s+\w+: \d of \d+ found[^)]*\))+)", text)
    assert len(drawn) == 5
    for name, seed, captions in drawn:
        image = list(map(str, fake.ground_truth.ids)).index(name)
        spreads = {s: int(np.ptp([of_arm[s][image] for of_arm in found.values()])) for s in shared}
        assert spreads[int(seed)] == max(spreads.values()) > 0
        assert [int(n) for n in re.findall(r": (\d) of", captions)] == [one[int(seed)][image] for one in found.values()]
    assert len({seed for _, seed, _ in drawn}) > 1


def test_of_many_arms_the_baseline_and_the_extremes_are_shown(fake: FakeAblation) -> None:
    few = collect(*fake.arguments[1:3], fake.ground_truth, read_results)
    many = {f"{arm}-{copy}": few[arm] for copy in range(2) for arm in few}
    note, *rows = disagreements(many, fake.ground_truth, fake.image_of)
    assert isinstance(note, Figure)
    assert "those that found the most and the fewest" in note.caption
    assert rows
    for row in rows:
        assert isinstance(row, PictureRow)
        counts = [int(picture.caption.split(": ")[1].split(" ")[0]) for picture in row.pictures]
        assert row.pictures[0].caption.startswith("fpn-0: ")
        assert 2 <= len(row.pictures) <= 3
        assert max(counts) > min(counts)


def test_what_finds_an_object_is_of_its_class_and_lies_on_it() -> None:
    objects = [{"id": 1 + i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [40 * i, 0, 30, 30]} for i in range(3)]
    truth = annotations_of(
        {
            "images": [{"id": 1, "width": 200, "height": 100, "file_name": "a.png"}],
            "annotations": [{**one, "area": 900, "iscrowd": 0} for one in objects],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
    )
    boxes = {0.9: (1, [2, 0, 30, 30]), 0.8: (1, [40, 0, 30, 30]), 0.7: (1, [0, 0, 30, 30]), 0.6: (1, [80, 0, 30, 30])}
    rows = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for score, (c, box) in boxes.items()]
    results = matched_ids(results_of(rows), truth)
    (at,) = results.by_image()
    found = found_by(truth, wanted(truth, 0), results, at)
    scores = {row: results.scores[by] for row, by in found.items()}
    assert scores == {0: 0.9}, "another class, a second detection, and one below the three best find nothing"
