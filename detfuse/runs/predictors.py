"""What ``predict`` predicts with: a checkpoint's detector, or an exported file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from detfuse.config.schema.overrides import key_of
from detfuse.data import Transforms, collate
from detfuse.errors import UserError
from detfuse.export import format_of, read_exported
from detfuse.runs.invocation import Invocation
from detfuse.structures import Categories, Detections
from detfuse.weights.checkpoint import Checkpoint


class Predictor(Protocol):
    """Images of any size to detections."""

    @property
    def categories(self) -> Categories: ...

    @property
    def transform(self) -> Transforms:
        """How it resizes images."""
        ...

    def __call__(self, image: Tensor) -> Detections:
        """Detections in pixels of the image (3, H, W) uint8."""
        ...


def open_predictor(invocation: Invocation, own: Collection[str]) -> Predictor:
    """The predictor that the command names; a file's suffix says what it is.

    Args:
        invocation: of a command with a ``checkpoint``.
        own: the settings of the command itself, which may be typed for any file.

    Raises:
        UserError: if settings were typed that an exported file does not leave open.
    """
    path = Path(invocation.config["checkpoint"] or "").expanduser()  # none where weights are named
    if format_of(path) is None:
        from detfuse.runs.stored import open_checkpoint  # here, so that an exported file is read without Lightning

        if invocation.config["weights"]:
            from detfuse.runs.published import open_published

            return CheckpointPredictor(*open_published(invocation, reads_data=False))
        return CheckpointPredictor(*open_checkpoint(invocation))
    fixed = [typed for typed in invocation.typed if key_of(typed) not in own]
    if fixed:
        raise UserError(
            f"{', '.join(fixed)}: an exported file has its settings inside, {path.name} too; "
            f"what may be typed: {', '.join(own)}"
        )
    return read_exported(path)


class CheckpointPredictor:
    """A checkpoint's detector on its device, with the checkpoint's image size and number format.

    Args:
        checkpoint: the weights and the categories.
        config: its configuration, with what was typed.
    """

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any]) -> None:
        from detfuse.build import build_combine, instantiate, size_divisor  # likewise
        from detfuse.runs.stored import trained_detector
        from detfuse.training.inference import Inference

        self.categories = checkpoint.categories
        detector = trained_detector(checkpoint, config)
        self.inference = Inference(detector, build_combine(config, fitted=True), config)
        self.transform: Transforms = instantiate(config["data"]["transform"])()
        self.divisor = self.transform.divisor(size_divisor(detector.backbone.out_spec))

    def __call__(self, image: Tensor) -> Detections:
        """See :class:`Predictor`."""
        batch = collate([self.transform.evaluate(image)], size_divisor=self.divisor)
        (found,) = self.inference(self.inference.placed(batch.images), batch.image_sizes.to(self.inference.device))
        on_cpu = Detections(*(column.cpu() for column in found))
        return on_cpu.to_original(batch.scales[0], batch.original_sizes[0])
