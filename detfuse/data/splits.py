"""The splits of a data set: read, compared with each other, and handed over as batches."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import get_args

import numpy as np
from torch.utils.data import DataLoader

from detfuse.annotations import Annotations
from detfuse.data.collate import padded_size
from detfuse.data.dataset import DetectionDataset
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.data.layout import NoSplitError, Split
from detfuse.data.loader import Loader
from detfuse.data.transforms import Transforms
from detfuse.structures import Batch, Categories, ImageId, Size
from detfuse.words import listed, shown

_SPLITS_OF: dict[str | None, tuple[Split, ...]] = {"fit": ("train", "val"), None: ("train", "val")}


class DetectionDataModule(ABC):
    """What all data sets share: a subclass says how a split is read.

    :class:`detfuse.training.datamodule.LightningData` hands it to a trainer, which must run with
    ``use_distributed_sampler=False``: the batches know their rank.

    Args:
        size_divisor: images are padded to a multiple of it, unless ``transform`` gives them an exact size.
        seed: of the order and the augmentation.
        transform: what is done to the images.
        loader: how they are batched.

    Attributes:
        indexes: what was read of each split; that of training without what is held back.
        held_back: training images that nothing is trained on; None where there are none.
        undivided: all images of a data set that has no splits, once one was read; None of any other.
    """

    def __init__(self, size_divisor: int, seed: int, *, transform: Transforms, loader: Loader) -> None:
        self.size_divisor = transform.divisor(size_divisor)
        self.seed = seed
        self.transform = transform
        self.loader = loader
        self.indexes: dict[Split, AnnotationIndex] = {}
        self.held_back: AnnotationIndex | None = None
        self.undivided: AnnotationIndex | None = None

    def prepare_data(self) -> None:  # noqa: B027  most data sets are there
        """Make the files, where that is to be done, before anything is read; once per machine."""

    @abstractmethod
    def read(self, split: Split) -> AnnotationIndex:
        """Read a split's annotations."""

    def read_all(self) -> dict[Split, AnnotationIndex]:
        """Read the splits that there are, for those who do not train.

        Raises:
            DataError: if there is none, or a file cannot be used.
        """
        found: dict[Split, AnnotationIndex] = {}
        problems: list[NoSplitError] = []
        for split in get_args(Split):
            try:
                found[split] = self.read(split)
            except NoSplitError as error:
                problems.append(error)
        if not found:
            raise problems[0]
        return found

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs: both splits to fit, the validation split to evaluate; each is read once.

        Raises:
            DataError: if a file cannot be used, or the categories of the splits differ.
        """
        for split in _SPLITS_OF.get(stage, ("val",)):
            if split not in self.indexes:
                self.indexes[split] = self.read(split)
                _warn_of_extreme_shapes(self.indexes[split], self.transform)
                if split == "train":
                    self._hold_back()
        if len(self.indexes) == 2:
            train, val = self.indexes["train"], self.indexes["val"]
            check_categories(train, val)
            _warn_of_shared_images(train, val)

    def _hold_back(self) -> None:
        index = self.indexes["train"]
        held = self.loader.held_back(len(index))
        if held.any():
            self.held_back, self.indexes["train"] = index.only(held), index.only(~held)

    @property
    def categories(self) -> Categories:
        """The classes: labels 0..K-1, the file's ids, names."""
        return self._any().categories

    @property
    def description(self) -> str:
        """What was recognised, line by line: files, images, boxes, crowds, categories."""
        lines = []
        for split, index in self.indexes.items():
            lines.append(f"{split + ':':6} {index.summary()}")
            lines.append(f"       {index.form}: {index.source}, images in {index.root}")
            if split == "train" and self.held_back is not None:
                lines.append(f"       held back of it: {self.held_back.summary()}")
        names = self.categories.names
        first = ", ".join(map(shown, names[:12])) + (", ..." if len(names) > 12 else "")
        lines.append(f"{len(names)} categories: {first}")
        groups = [name for name in names if all(name in index.groups for index in self.indexes.values())]
        if groups:
            lines.append(
                f"of these without a box, only to group others, as some tools write it: {listed(groups)}; "
                "data.grouping_categories=drop leaves it out"
            )
        return "\n".join(lines)

    def ground_truth(self, split: Split) -> Annotations:
        """What a split contains, crowds included: what an evaluator takes.

        Raises:
            DataError: if the split was not set up.
        """
        return self._index(split)

    def image_id_of(self, split: Split, number: int) -> ImageId:
        """The annotation file's own id of an image, of its number in a batch of this split."""
        return self._index(split).id_of(number)

    def dataset(self, split: Split) -> DetectionDataset:
        """The split's images, augmented for training."""
        return DetectionDataset(self._index(split), self.transform, train=split == "train", seed=self.seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The training batches."""
        return self.loader.train(self.dataset("train"), size_divisor=self.size_divisor)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The evaluation batches."""
        return self.loader.evaluate(self.dataset("val"), size_divisor=self.size_divisor)

    def held_back_dataloader(self) -> DataLoader[Batch]:
        """What is held back of the training images, as evaluation sees it.

        Raises:
            DataError: if nothing is, or the training split was not read.
        """
        if self.held_back is None:
            raise DataError("nothing is held back of the training images: give data.loader.hold_back, such as 0.1")
        dataset = DetectionDataset(self.held_back, self.transform, train=False, seed=self.seed)
        return self.loader.evaluate(dataset, size_divisor=self.size_divisor)

    def train_batches_per_epoch(self, world_size: int) -> int:
        """Optimisation steps per epoch without accumulation: what a schedule's length is computed from."""
        return self.loader.train_batches(self.dataset("train")).num_batches(world_size)

    def images_per_batch(self, world_size: int) -> int:
        """Images in a training batch of so many processes together; fewer than asked for, if there are fewer at all."""
        return self.loader.train_batches(self.dataset("train")).num_images(world_size)

    def largest_padded_size(self) -> Size:
        """(height, width) of the largest image that may be fed, padded; training with its augmentation."""
        return self._largest([*self._fed("train"), *self._fed("val")])

    def largest_batch_shape(self) -> Size:
        """(height, width) that the largest batch may have, padded: what memory must suffice for.

        A training batch is as high as its highest image and as wide as its widest one.
        """
        training = self._fed("train")
        if training and self.loader.batch_size > 1:
            training = [(max(height for height, _ in training), max(width for _, width in training))]
        return self._largest([*training, *self._fed("val")])

    def largest_inference_size(self) -> Size:
        """(height, width) of the largest validation image, padded and without augmentation: what costs refer to."""
        return self._largest(self._fed("val"))

    def _fed(self, split: Split) -> list[Size]:
        """(height, width) of the images that a split feeds, the largest of each file size; none if it was not read."""
        if split not in self.indexes:
            return []
        files = np.unique(self.indexes[split].sizes, axis=0).tolist()
        if split == "val":
            return [self.transform.resized(*size) for size in files]
        return [largest for size in files for largest in self.transform.largest(*size)]

    def _largest(self, sizes: Iterable[Size]) -> Size:
        padded = [padded_size(*size, self.size_divisor) for size in sizes]
        return max(padded, key=lambda size: size[0] * size[1], default=padded_size(1, 1, self.size_divisor))

    def smallest_training_batch(self, world_size: int) -> tuple[int, Size]:
        """Images per process, and their (height, width), padded, in the smallest step that training can meet."""
        sizes = [
            padded_size(*self.transform.smallest(height, width), self.size_divisor)
            for height, width in np.unique(self._index("train").sizes, axis=0).tolist()
        ]
        images = self.loader.train_batches(self.dataset("train")).fewest_images(world_size)
        return images, min(sizes, key=max)  # a map is 1 x 1 where neither side is longer than its stride

    def _index(self, split: Split) -> AnnotationIndex:
        if split not in self.indexes:
            raise DataError(f"the {split} split was not read; call setup() first")
        return self.indexes[split]

    def _any(self) -> AnnotationIndex:
        if not self.indexes:
            raise DataError("no split was read; call setup() first")
        return next(iter(self.indexes.values()))


def check_categories(train: AnnotationIndex, val: AnnotationIndex) -> None:
    """Labels must mean the same in both splits.

    Raises:
        DataError: naming every category that differs.
    """
    ours = dict(zip(train.categories.ids, train.categories.names, strict=True))
    theirs = dict(zip(val.categories.ids, val.categories.names, strict=True))
    if ours == theirs:
        return
    problems = []
    for only, here, there in (("train", ours, theirs), ("val", theirs, ours)):
        missing = [f"{name!r} (id {i})" for i, name in here.items() if name not in there.values()]
        if missing:
            problems.append(f"only in {only}: {', '.join(missing)}")
    renamed = [
        f"id {i} is {ours[i]!r} in train and {theirs[i]!r} in val" for i in ours if ours[i] != theirs.get(i, ours[i])
    ]
    id_of = {name: i for i, name in theirs.items()}
    moved = [
        f"{name!r} has id {i} in train and {id_of[name]} in val" for i, name in ours.items() if id_of.get(name, i) != i
    ]
    raise DataError(
        f"the categories of {train.source} and {val.source} differ:\n  "
        + "\n  ".join(problems + renamed + moved)
        + "\nGive both files the same list of categories; one that never occurs in a split may stay in its list"
    )


def _warn_of_extreme_shapes(index: AnnotationIndex, transform: Transforms) -> None:
    thin = [i for i, size in enumerate(index.sizes.tolist()) if transform.is_extreme(*size)]
    if thin:
        first = index.sizes[thin[0]].tolist()
        resized, given = (" x ".join(map(str, size)) for size in (transform.resized(*first), first))
        warnings.warn(
            f"{index.source}: {len(thin)} images are so thin that their longer side is capped, such as "
            f"{shown(index.file_names[thin[0]])}: {given} pixels (height x width) become {resized}; choose the cap by "
            "data.transform.long_side",
            DataWarning,
            stacklevel=3,
        )


def _warn_of_shared_images(train: AnnotationIndex, val: AnnotationIndex) -> None:
    if train.root.resolve() != val.root.resolve():
        return
    shared = sorted(set(train.file_names) & set(val.file_names))
    if shared:
        warnings.warn(
            f"{len(shared)} images are in train and in val ({', '.join(shared[:5])}): "
            "the validation numbers are flattered",
            DataWarning,
            stacklevel=3,
        )
