"""The data modules: where a data set's splits come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from detfuse.data.generators import FarCue, GeneratedData, Shapes, generate
from detfuse.data.generators.shapes import ObjectSide
from detfuse.data.images import CheckImages
from detfuse.data.index import AnnotationIndex, DataError
from detfuse.data.kept import opened
from detfuse.data.layout import Given, Split, annotations_in, find_split
from detfuse.data.loader import Loader
from detfuse.data.readers import Grouping, index_of
from detfuse.data.splits import DetectionDataModule
from detfuse.data.transforms import Transforms
from detfuse.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt, checked


@checked
class FolderDataModule(DetectionDataModule):
    """A data set that lies in a folder: COCO's json, Pascal VOC's xml, YOLO's txt, rows of a CSV file, or CVAT's xml.

    Args:
        size_divisor: see :class:`DetectionDataModule`.
        seed: see :class:`DetectionDataModule`.
        root: the data set's folder; form and layout are recognised (see :mod:`detfuse.data.layout`).
        train_annotations: annotation file, or folder of such files, relative to ``root``, where it is not recognised.
        train_images: image folder, likewise.
        val_annotations: likewise.
        val_images: likewise.
        val_share: of the images of a folder that nothing divides into splits, how many validation takes; which ones
            depends on their names alone.
        grouping_categories: what becomes of categories that have no box and only group others: keep them as classes,
            or drop them.
        limit_images: take only the first images by id, of both splits.
        follow_symlinks: allow links that lead out of ``root`` or of the image folder.
        check_images: look only whether the files exist, or read each header (about 0.1 ms per image).
        transform: what is done to the images.
        loader: how they are batched.
    """

    def __init__(
        self,
        size_divisor: int,
        seed: int,
        *,
        root: str,
        train_annotations: str | None = None,
        train_images: str | None = None,
        val_annotations: str | None = None,
        val_images: str | None = None,
        val_share: OpenFraction = 0.2,
        grouping_categories: Literal["keep", "drop"] = "keep",
        limit_images: PositiveInt | None = None,
        follow_symlinks: bool = False,
        check_images: Literal["exists", "header"] = "header",
        transform: Transforms,
        loader: Loader,
    ) -> None:
        super().__init__(size_divisor, seed, transform=transform, loader=loader)
        self.root = Path(root).expanduser()
        self.given: dict[Split, Given] = {
            "train": (train_annotations, train_images),
            "val": (val_annotations, val_images),
        }
        self.val_share = val_share
        self.grouping: Grouping = grouping_categories
        self.limit_images = limit_images
        self.follow_symlinks = follow_symlinks
        self.check_images: CheckImages = check_images

    def read(self, split: Split) -> AnnotationIndex:
        if self.undivided is None:
            files = find_split(self.root, split, given=self.given, follow_symlinks=self.follow_symlinks)
            limit = None if files.undivided else self.limit_images
            index = opened(
                files,
                follow_symlinks=self.follow_symlinks,
                check=self.check_images,
                limit_images=limit,
                grouping=self.grouping,
            )
            if not files.undivided:
                return index
            self.undivided = index
        drawn = self.undivided.drawn(self.val_share)
        return self.undivided.only(drawn == (split == "val")).limit(self.limit_images)

    @property
    def description(self) -> str:
        note = f"nothing divides the folder: data.val_share={self.val_share:g} of its images validate"
        return super().description + (f"\n{note}" if self.undivided is not None else "")


CocoDataModule = FolderDataModule
"""Its name while COCO's was the only form."""


class GeneratedDataModule(DetectionDataModule):
    """A generated data set, written once below ``root`` in COCO's form and read like any other.

    Args:
        size_divisor: see :class:`DetectionDataModule`.
        seed: see :class:`DetectionDataModule`; the data do not depend on it.
        root: folder; each set of parameters gets its own folder in it.
        generated: what the data depend on.
        transform: what is done to the images.
        loader: how they are batched.
    """

    def __init__(
        self,
        size_divisor: int,
        seed: int,
        *,
        root: str,
        generated: GeneratedData,
        transform: Transforms,
        loader: Loader,
    ) -> None:
        super().__init__(size_divisor, seed, transform=transform, loader=loader)
        self.root = Path(root).expanduser()
        self.generated = generated

    @property
    def folder(self) -> Path:
        """Where the data are, or will be."""
        return self.root / self.generated.folder

    def prepare_data(self) -> None:
        """Generate, unless it is there.

        Raises:
            DataError: if ``root`` is a data set itself, of which nothing would be seen.
        """
        if (found := annotations_in(self.root)) is not None:
            raise DataError(
                f"data.root={self.root} holds annotations ({found.relative_to(self.root)}), but data is generated: "
                "add data=folder to use them, or name another folder for what is generated"
            )
        generate(self.root, self.generated)

    def read(self, split: Split) -> AnnotationIndex:
        files = find_split(generate(self.root, self.generated), split)
        return index_of(files.records(), files.images)


@checked
class SyntheticDataModule(GeneratedDataModule):
    """Generated shapes, written once below ``root`` in COCO's form and read like any other data set.

    Args:
        size_divisor: see :class:`DetectionDataModule`.
        seed: see :class:`DetectionDataModule`; the data do not depend on it.
        root: folder; each set of the parameters below gets its own folder in it.
        num_train: see :class:`detfuse.data.generators.Shapes`, as for the following.
        num_val: validation images.
        image_size: height and width in pixels.
        min_size: smallest object side in pixels.
        max_size: largest object side in pixels.
        max_objects: most objects per image.
        data_seed: of the drawing.
        transform: what is done to the images.
        loader: how they are batched.
    """

    def __init__(
        self,
        size_divisor: int,
        seed: int,
        *,
        root: str = "datasets/synthetic",
        num_train: PositiveInt = 800,
        num_val: PositiveInt = 200,
        image_size: PositiveInt = 128,
        min_size: ObjectSide = 8.0,
        max_size: ObjectSide = 80.0,
        max_objects: PositiveInt = 6,
        data_seed: NonNegativeInt = 0,
        transform: Transforms,
        loader: Loader,
    ) -> None:
        shapes = Shapes(
            num_train=num_train,
            num_val=num_val,
            image_size=image_size,
            min_size=min_size,
            max_size=max_size,
            max_objects=max_objects,
            data_seed=data_seed,
        )
        super().__init__(size_divisor, seed, root=root, generated=shapes, transform=transform, loader=loader)


@checked
class FarCueDataModule(GeneratedDataModule):
    """Discs that look alike, whose class a distant lamp tells; written once below ``root`` in COCO's form.

    Args:
        size_divisor: see :class:`DetectionDataModule`.
        seed: see :class:`DetectionDataModule`; the data do not depend on it.
        root: folder; each set of the parameters below gets its own folder in it.
        num_train: see :class:`detfuse.data.generators.FarCue`, as for the following.
        num_val: validation images.
        image_size: height and width in pixels.
        min_size: smallest disc in pixels.
        max_size: largest disc in pixels.
        max_objects: most discs per image.
        lamp_size: the lamp in pixels.
        distance: least number of pixels between the lamp and a disc.
        data_seed: of the drawing.
        transform: what is done to the images.
        loader: how they are batched.
    """

    def __init__(
        self,
        size_divisor: int,
        seed: int,
        *,
        root: str = "datasets/far_cue",
        num_train: PositiveInt = 400,
        num_val: PositiveInt = 200,
        image_size: PositiveInt = 64,
        min_size: ObjectSide = 8.0,
        max_size: ObjectSide = 12.0,
        max_objects: PositiveInt = 4,
        lamp_size: ObjectSide = 16.0,
        distance: NonNegativeFloat = 24.0,
        data_seed: NonNegativeInt = 0,
        transform: Transforms,
        loader: Loader,
    ) -> None:
        far_cue = FarCue(
            num_train=num_train,
            num_val=num_val,
            image_size=image_size,
            min_size=min_size,
            max_size=max_size,
            max_objects=max_objects,
            lamp_size=lamp_size,
            distance=distance,
            data_seed=data_seed,
        )
        super().__init__(size_divisor, seed, root=root, generated=far_cue, transform=transform, loader=loader)
