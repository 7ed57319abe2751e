"""Reading a data set of train2017's size beside ``pycocotools.COCO``: ``python scripts/benchmark.py reading [ROUNDS]``.

All ways take turns in every round, each in a process of its own; imports are done before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

IMAGES, BOXES, NUM_CLASSES = 118_287, 860_001, 80
POINTS = 24  # of an outline, in the mean: the file is then as large as train2017's
HEIGHT, WIDTH, FILES = 480, 640, 16

_COCO = "from pycocotools.coco import COCO", "COCO(file)"
_FILE = "from detfuse.data import read_coco", "read_coco(file, root + '/train2017', check='nothing')"
_DATA = (
    "from detfuse.data import FolderDataModule, Loader, Transforms",
    "FolderDataModule(32, 0, root=root, transform=Transforms(), loader=Loader()).read('train')",
)
WAYS = {  # in this order: the last one finds what the one before it has kept
    "`COCO()`": _COCO,
    "read anew, images not looked at": _FILE,
    "read anew, header of each image": _DATA,
    "opened from what was kept": _DATA,
}

_PROGRAM = """
import contextlib, io, json, pathlib, sys, time
{}
def peak():  # of this program alone: getrusage begins with the peak of the one that started it
    told = pathlib.Path("/proc/self/status").read_text().split()
    return int(told[told.index("VmHWM:") + 1]) / 1024
root = sys.argv[1]
file = root + "/annotations/instances_train2017.json"
before = peak()
wall, processor = time.perf_counter(), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    kept = {}
wall, processor = time.perf_counter() - wall, time.process_time() - processor
print(json.dumps([processor, wall, peak() - before]))
"""


def reading(rounds: str = "3") -> None:
    """Seconds of processor and wall, and how much memory is needed at the most, by way of reading."""
    figures: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_data(root)
        megabytes = (root / "annotations/instances_train2017.json").stat().st_size / 1e6
        for number in range(int(rounds)):
            kept = {**os.environ, "XDG_CACHE_HOME": f"{folder}/{number}"}
            for way, (imports, call) in WAYS.items():
                command = [sys.executable, "-W", "ignore", "-c", _PROGRAM.format(imports, call), str(root)]
                run = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
                if run.returncode:
                    raise SystemExit(run.stderr[-2000:])
                figures[way].append(json.loads(run.stdout))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{IMAGES:,} images, {BOXES:,} boxes, {megabytes:.0f} MB; median of {rounds} rounds, load average {load}")
    print("| | processor, s | beside `COCO()` | wall, s | beside `COCO()` | MiB at the peak |")
    print("|---|--:|--:|--:|--:|--:|")
    first = next(iter(figures.values()))
    for way, rows in figures.items():
        cells = []
        for i in range(2):
            cells.append(f"{median(row[i] for row in rows):.1f}")
            cells.append(f"{median(row[i] / other[i] for row, other in zip(rows, first, strict=True)):.2f}")
        print(f"| {way} | {' | '.join(cells)} | {median(row[2] for row in rows):,.0f} |")


def write_data(root: Path) -> None:
    """A data set in COCO's form with its keys and outlines, whose images are links to a few files."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    for number in range(FILES):
        noise = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(root / f"{number}.jpg")
    for i in range(IMAGES):
        os.link(root / f"{i % FILES}.jpg", root / "train2017" / _name(i))
    with (root / "annotations/instances_train2017.json").open("w") as file:
        file.writelines(_json(rng))


def _name(i: int) -> str:
    return f"{_id(i):012d}.jpg"


def _id(i: int) -> int:
    return 7 * i + 1


def _json(rng: np.random.Generator) -> Iterator[str]:
    yield '{"info": {"year": 2017}, "licenses": [{"id": 1, "name": "any"}], "images": ['
    for i in range(IMAGES):
        record = {"license": 1, "file_name": _name(i), "coco_url": f"http://images.example.org/train2017/{_name(i)}"}
        record |= {"height": HEIGHT, "width": WIDTH, "date_captured": "2013-11-14 17:02:52"}
        record |= {"flickr_url": f"http://farm.example.org/1234/{_id(i):010d}_0123456789_z.jpg", "id": _id(i)}
        yield f"{', ' if i else ''}{json.dumps(record)}"
    yield '], "annotations": ['
    image = rng.integers(IMAGES, size=BOXES).tolist()
    corners = np.round(rng.uniform(0, (WIDTH - 200, HEIGHT - 200), (BOXES, 2)), 2)
    sides = np.round(rng.uniform(1, 200, (BOXES, 2)), 2)
    points = np.clip(rng.geometric(1 / POINTS, BOXES), 3, 400).tolist()
    crowd = (rng.random(BOXES) < 0.01).astype(int).tolist()
    for i, (corner, side, count) in enumerate(zip(corners, sides, points, strict=True)):
        outline = np.round(corner + side * rng.random((count, 2)), 2).ravel().tolist()
        what = f'"segmentation": [{outline}], "area": {side.prod() * 0.6:.4f}, "iscrowd": {crowd[i]}'
        where = f'"image_id": {_id(image[i])}, "bbox": {[*corner.tolist(), *side.tolist()]}'
        yield f'{", " if i else ""}{{{what}, {where}, "category_id": {i % NUM_CLASSES + 1}, "id": {i + 1}}}'
    yield f'], "categories": {json.dumps([{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)])}}}'
