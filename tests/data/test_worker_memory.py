"""What a worker looks at stays the page of memory that it shares with the main process."""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

from detfuse.data import Loader, Transforms
from detfuse.data.dataset import DetectionDataset
from detfuse.data.index import AnnotationIndex, Texts
from detfuse.structures import Categories

IMAGES, OBJECTS = 300_000, 3


def of_many_images() -> AnnotationIndex:
    rows = IMAGES * OBJECTS
    return AnnotationIndex(
        ids=tuple(range(1000, 1000 + IMAGES)),
        categories=Categories((1,), ("a",)),
        offsets=np.arange(0, rows + 1, OBJECTS),
        boxes=np.ones((rows, 4)),
        labels=np.zeros(rows, np.int64),
        crowd=np.zeros(rows, np.bool_),
        ignore=np.zeros(rows, np.bool_),
        areas=np.ones(rows),
        source=Path("a.json"),
        root=Path("images"),
        file_names=[f"{number:012d}.jpg" for number in range(IMAGES)],
        sizes=np.full((IMAGES, 2), 64),
        annotation_ids=np.arange(1, rows + 1),
    )


def own_mebibytes() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells what a process shares")
def test_a_worker_that_looks_at_every_image_copies_almost_nothing() -> None:
    index = of_many_images()
    dataset = DetectionDataset(index, Transforms(short_side=64), train=True, seed=0)
    begin = Loader(num_workers=1).train(dataset, size_divisor=32).worker_init_fn
    assert begin is not None
    reader, writer = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # other threads of this process sleep
        child = os.fork()
    if not child:
        before = own_mebibytes()
        begin(0)
        for position in range(IMAGES):
            index.file_names[position]  # not `path`: pathlib interns its parts, which copies a table of a fixed size
            index.number_of(position)
            index.rows(position)
        gc.collect()
        os.write(writer, str(own_mebibytes() - before).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    # 24 where names are Python's, 10 where ids are, 90 where it collects garbage; the process itself takes up to 5
    assert float(os.read(reader, 100)) < 8
    os.close(reader)


def test_texts_are_a_sequence_of_what_they_were_made_of() -> None:
    given = ["a.jpg", "", "naïve/ä.png", "日本.tif"]
    texts = Texts(given)
    assert list(texts) == given
    assert texts == tuple(given)
    assert texts != given[:3]
    assert texts[-1] == given[-1]
    assert texts[1:3] == tuple(given[1:3])
    assert list(Texts([])) == []
    with pytest.raises(IndexError):
        texts[4]


class Cycle:
    """As trainers and modules are: only a collection of garbage ends it."""

    def __init__(self) -> None:
        self.myself = self


def test_a_loader_with_workers_keeps_from_collection_what_there_is_and_lets_go_of_what_was() -> None:
    dataset = DetectionDataset(of_many_images(), Transforms(short_side=64), train=True, seed=0)
    last_run = Cycle()
    alive = weakref.ref(last_run)
    Loader(num_workers=1).train(dataset, size_divisor=32)
    del last_run
    gc.collect()
    assert alive() is not None
    Loader(num_workers=1).train(dataset, size_divisor=32)
    assert alive() is None
