"""The pictures of a report: the images on which the arms disagree most."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from fake_ablation import FakeAblation, make_ablation
from written import EVIL, Page

from detfuse.ablation.report import write_report


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
