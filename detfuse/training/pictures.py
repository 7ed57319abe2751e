"""Pictures of what the detector is taught and of what it finds."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from detfuse.ranges import Fraction, NonNegativeInt, checked
from detfuse.structures import Batch, Detections, ImageId, Targets
from detfuse.visualize.boxes import draw_detections, draw_targets, save_picture

_LONGEST = 50  # characters of an id; four bytes each at most, of the 255 that a file name may have


@checked
class Pictures(pl.Callback):
    """Writes ``<run folder>/pictures/``: ``train_batch_<n>.jpg`` with augmentation, ``val_<image id>.jpg``.

    What a file name cannot hold of an image id that is a text is written as in a URL: ``val_a%2Fb.jpg``.

    The first training batches are drawn once, the first validation images after each validation (over the last
    ones); TensorBoard keeps the history.

    Args:
        train_batches: how many training batches are drawn.
        val_images: how many validation images are drawn.
        threshold: detections below this score are not drawn.
        targets: draw the ground truth of validation images too, thin and white.
    """

    def __init__(
        self,
        *,
        train_batches: NonNegativeInt = 2,
        val_images: NonNegativeInt = 8,
        threshold: Fraction = 0.3,
        targets: bool = True,
    ) -> None:
        self.train_batches = train_batches
        self.val_images = val_images
        self.threshold = threshold
        self.targets = targets
        self._train_drawn = 0
        self._val_drawn = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Draw the batch as the detector gets it."""
        if not trainer.is_global_zero or trainer.current_epoch > 0 or self._train_drawn >= self.train_batches:
            return
        picture = draw_targets(batch, _categories(pl_module))
        self._write(trainer, f"train_batch_{self._train_drawn}", picture)
        self._train_drawn += 1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the first image again."""
        self._val_drawn = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw detections on the images they are of."""
        if not trainer.is_global_zero or self._val_drawn >= self.val_images:
            return
        detections: list[Detections] = outputs["detections"]
        for i, found in enumerate(detections[: self.val_images - self._val_drawn]):
            height, width = batch.image_sizes[i].tolist()
            image = batch.picture(i)[:, :height, :width]
            targets = Targets(*(column[i] for column in batch.targets)) if self.targets else None
            picture = draw_detections(
                image,
                found,
                _categories(pl_module),
                threshold=self.threshold,
                targets=targets,
            )
            self._write(trainer, f"val_{_in_file_name(_image_id(pl_module, batch, i))}", picture)
            self._val_drawn += 1

    def _write(self, trainer: pl.Trainer, name: str, picture: Tensor) -> None:
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(folder / f"{name}.jpg", picture)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"pictures/{name}", picture, trainer.global_step)


def _in_file_name(image_id: ImageId) -> str:
    """The id as part of a file name; a long one is cut, and told from its like by a checksum."""
    name = "".join(c if c.isalnum() or c in "-._" else quote(c, safe="") for c in str(image_id))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{zlib.crc32(name.encode()):08x}"


def _image_id(pl_module: Any, batch: Batch, row: int) -> ImageId:
    image_id: ImageId = pl_module.image_id_of("val", int(batch.image_ids[row]))
    return image_id


def _categories(pl_module: pl.LightningModule) -> Any:
    return pl_module.categories
