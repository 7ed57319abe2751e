"""Which images form which batch, on which rank, and the DataLoaders that fetch them.

Everything is a function of the data set, the seed, the epoch and the number of ranks: no generator is shared, the
global random state is not touched, and workers hold no state.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from detfuse.data.collate import collate, padded_size, target_bucket
from detfuse.data.dataset import DetectionDataset, Key
from detfuse.errors import InputError
from detfuse.ranges import FractionBelowOne, NonNegativeInt, PositiveInt, checked
from detfuse.structures import Batch, Size


def rank_and_world_size() -> tuple[int, int]:
    """Of this process in torch.distributed; (0, 1) where that is not initialised."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class TrainBatches(Sampler[list[Key]]):
    """This rank's share of the global batches of an epoch, which are a function of (seed, epoch) alone.

    A global batch has ``batch_size * world_size`` images; an incomplete last one is dropped unless it is the only one.
    With fewer images than ranks, images are repeated so that every rank has one: ranks step together.

    Args:
        aspects: (I,) height / width of each image.
        batch_size: images per rank.
        seed: of the order.
        group_by_aspect: put wide images with wide ones and tall with tall ones, which saves padding.
    """

    def __init__(
        self, aspects: npt.NDArray[np.float64], batch_size: int, *, seed: int, group_by_aspect: bool = True
    ) -> None:
        self.tall = aspects > 1 if group_by_aspect else np.zeros(len(aspects), np.bool_)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._first = 0  # batch of the next iteration

    @property
    def sampler(self) -> TrainBatches:
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler`` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration; it begins with its first batch, unless :meth:`start_at` named another."""
        if epoch != self.epoch:
            self.start_at(epoch, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the next iteration go on within an epoch, of which so many batches have been seen.

        Those that follow are whole epochs again. It must be known before the DataLoader's ``iter``: workers ask for
        their first batches there.
        """
        self.epoch, self._first = epoch, batch

    def num_batches(self, world_size: int) -> int:
        """Batches per epoch, the same for every rank."""
        return max(1, len(self.tall) // (self.batch_size * world_size))

    def num_images(self, world_size: int) -> int:
        """Images in a global batch; with fewer images than ranks, those that are repeated count again."""
        return min(self.batch_size * world_size, max(len(self.tall), world_size))

    def fewest_images(self, world_size: int) -> int:
        """Images in the smallest batch of a rank: ``batch_size``, unless the data set does not fill one batch."""
        images = len(self.tall)
        return self.batch_size if images >= self.batch_size * world_size else max(1, images // world_size)

    def __len__(self) -> int:
        return self.num_batches(rank_and_world_size()[1])

    def __iter__(self) -> Iterator[list[Key]]:
        rank, world_size = rank_and_world_size()
        epoch, first, self._first = self.epoch, self._first, 0
        for batch in self.global_batches(epoch, world_size)[first:]:
            yield [Key(epoch, index) for index in batch[rank::world_size]]

    def global_batches(self, epoch: int, world_size: int) -> list[list[int]]:
        """The positions of each global batch of an epoch."""
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        size = self.batch_size * world_size
        order = generator.permutation(len(self.tall))[: self.num_batches(world_size) * size].tolist()
        batches: list[list[int]] = []
        filling: dict[bool, list[int]] = {False: [], True: []}  # wide images, tall images
        for index in order:
            alike = filling[bool(self.tall[index])]
            alike.append(index)
            if len(alike) == size:
                batches.append(alike.copy())
                alike.clear()
        # All are a multiple of `size`, so what is left of both kinds is one whole batch or nothing; unless there are
        # fewer images than that: then all of them, repeated until every rank has one.
        mixed = filling[False] + filling[True]
        if mixed:
            batches.append(list(islice(cycle(mixed), max(len(mixed), world_size))))
        return [batches[i] for i in generator.permutation(len(batches)).tolist()]


class EvaluationBatches(Sampler[list[Key]]):
    """Batches formed once from the data set, each of one padded shape, dealt whole to the ranks.

    So an image's detections never depend on the number of processes. Ranks may get different numbers of batches, also
    none; no image appears twice. The largest images come first: memory that does not suffice runs out early.

    Args:
        shapes: padded (height, width) of each image.
        batch_size: images per batch.
    """

    def __init__(self, shapes: list[Size], batch_size: int) -> None:
        groups: defaultdict[Size, list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            groups[shape].append(index)
        self.batches = [
            members[start : start + batch_size]
            for _, members in sorted(groups.items(), key=_by_area, reverse=True)
            for start in range(0, len(members), batch_size)
        ]

    def __len__(self) -> int:
        rank, world_size = rank_and_world_size()
        return len(self.batches[rank::world_size])

    def __iter__(self) -> Iterator[list[Key]]:
        rank, world_size = rank_and_world_size()
        for batch in self.batches[rank::world_size]:
            yield [Key(0, index) for index in batch]


def _by_area(group: tuple[Size, list[int]]) -> tuple[int, Size]:
    """Order of the groups of one padded shape; the shape decides among equal areas, so that there is one order."""
    (height, width), _ = group
    return height * width, (height, width)


@checked
class Loader:
    """Builds the DataLoaders.

    Args:
        batch_size: training images per process.
        eval_batch_size: images per evaluation batch; None takes ``batch_size``.
        num_workers: processes that decode; ``auto`` counts cores and takes none where the CPU trains on few cores.
        group_by_aspect: see :class:`TrainBatches`.
        hold_back: share of the training images that nothing is trained on; a calibration is fitted to them.
        targets_bucket: pad targets to the fullest image of the data set (one shape, which suits compilation) or of
            the batch (less work per step where few images hold very many objects).

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        batch_size: PositiveInt = 8,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt | Literal["auto"] = "auto",
        group_by_aspect: bool = True,
        targets_bucket: Literal["dataset", "batch"] = "dataset",
        hold_back: FractionBelowOne = 0.0,
    ) -> None:
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.group_by_aspect = group_by_aspect
        self.targets_bucket = targets_bucket
        self.hold_back = hold_back

    def held_back(self, num_images: int) -> npt.NDArray[np.bool_]:
        """(I,) which training images are held back: always the same, whatever the seed; at least one is left.

        Raises:
            InputError: if the share is none of the images, or leaves none.
        """
        held = np.zeros(num_images, np.bool_)
        if self.hold_back:
            count = round(self.hold_back * num_images)
            if not 0 < count < num_images:
                raise InputError(
                    f"data.loader.hold_back={self.hold_back} of {num_images} training images is {count} of them: hold "
                    "back one at least, and leave one at least"
                )
            held[np.random.Generator(np.random.Philox(0)).permutation(num_images)[:count]] = True
        return held

    def train_batches(self, dataset: DetectionDataset) -> TrainBatches:
        """The order of training."""
        sizes = dataset.index.sizes
        return TrainBatches(
            sizes[:, 0] / sizes[:, 1], self.batch_size, seed=dataset.seed, group_by_aspect=self.group_by_aspect
        )

    def train(self, dataset: DetectionDataset, *, size_divisor: int) -> DataLoader[Batch]:
        """The training loader; its order follows ``set_epoch``, which Lightning calls."""
        return self._build(dataset, self.train_batches(dataset), size_divisor)

    def evaluate(self, dataset: DetectionDataset, *, size_divisor: int) -> DataLoader[Batch]:
        """The evaluation loader."""
        shapes = [
            padded_size(*dataset.transform.resized(height, width), size_divisor)
            for height, width in dataset.index.sizes.tolist()
        ]
        return self._build(dataset, EvaluationBatches(shapes, self.eval_batch_size), size_divisor)

    def _build(self, dataset: DetectionDataset, batches: Sampler[list[Key]], size_divisor: int) -> DataLoader[Batch]:
        samples: Dataset[Any] = dataset  # the stubs know no collate_fn that changes the type
        num_targets = target_bucket(dataset.most_objects) if self.targets_bucket == "dataset" else None
        num_workers = auto_workers() if self.num_workers == "auto" else self.num_workers
        if num_workers:
            _end_workers_at_exit()
            _share_what_there_is(a_new_run=dataset.train)
        return DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=partial(collate, size_divisor=size_divisor, num_targets=num_targets),
            worker_init_fn=_begin_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(dataset.seed),  # else each iteration draws from the global one
        )


def _share_what_there_is(*, a_new_run: bool) -> None:
    """Keep the collection of garbage away from all objects that there are, here and in the workers to come.

    A collection writes into every object that it looks at, and the first process that writes into a page of memory
    gets a copy of it: after a few epochs nothing would be shared any more. A new run, which has no workers yet, first
    collects what the one before it kept away, such as the detector of a sweep's last run.
    """
    if a_new_run:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def _begin_worker(worker: int) -> None:
    gc.freeze()  # what has been made since the loader was
    _leave_signals_to_the_main_process()


def _leave_signals_to_the_main_process() -> None:
    """Let a worker outlive what stops a whole process group (Ctrl-C, a scheduler): the main process still needs it.

    That one ends its workers itself. A second SIGTERM ends one that hangs.
    """

    def once(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)
    if hasattr(signal, "SIGUSR1"):  # POSIX
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@cache
def _end_workers_at_exit() -> None:
    """See that the process ends when an error has left its workers at work.

    Multiprocessing would then send them SIGTERM, of which they do not heed the first, and wait for them for ever. It
    was registered earlier, so it is called later.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):  # POSIX
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a worker that is killed
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def auto_workers() -> int:
    """Workers per process: with a GPU all but one of its share of the cores, at most 8; else a quarter, at most 4.

    Decoding and resizing cost a few ms per image: on a CPU that also trains, workers on few cores only get in its way.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", rank_and_world_size()[1]))
    cores = max(1, cores // max(1, local))
    return min(8, max(1, cores - 1)) if torch.cuda.is_available() else min(4, cores // 4)
