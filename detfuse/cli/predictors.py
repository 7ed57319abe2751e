"""What ``predict`` predicts with: a checkpoint's detector, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from detfuse.cli.jobs import Invocation
from detfuse.config import PredictSettings
from detfuse.data import Transforms, collate
from detfuse.errors import UserError
from detfuse.export import format_of, read_exported
from detfuse.structures import Categories, Detections
from detfuse.weights.checkpoint import Checkpoint, load_weights


class Predictor(Protocol):
    """Images of any size to detections."""

    @property
    def categories(self) -> Categories: ...

    def __call__(self, image: Tensor) -> Detections:
        """Detections in pixels of the image (3, H, W) uint8."""
        ...


def open_predictor(invocation: Invocation) -> Predictor:
    """The predictor that the command names; a file's suffix says what it is.

    Raises:
        UserError: if settings were typed that an exported file does not leave open.
    """
    path = Path(invocation.config["checkpoint"]).expanduser()
    if format_of(path) is None:
        from detfuse.cli.evaluation_run import stored  # here, so that an exported file is read without Lightning

        return CheckpointPredictor(*stored(invocation))
    own = PredictSettings.__dataclass_fields__
    fixed = [typed for typed in invocation.typed if typed.lstrip("+~").partition("=")[0] not in own]
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
        from detfuse.build import build_combine, build_detector, instantiate, size_divisor  # likewise
        from detfuse.training.inference import Inference

        self.categories = checkpoint.categories
        detector = build_detector(config, len(checkpoint.categories))
        load_weights(detector, checkpoint)
        self.inference = Inference(detector, build_combine(config), config)
        self.transform: Transforms = instantiate(config["data"]["transform"])()
        self.divisor = self.transform.divisor(size_divisor(detector.backbone.out_spec))

    def __call__(self, image: Tensor) -> Detections:
        """See :class:`Predictor`."""
        batch = collate([self.transform.evaluate(image)], size_divisor=self.divisor)
        (found,) = self.inference(self.inference.placed(batch.images), batch.image_sizes.to(self.inference.device))
        on_cpu = Detections(*(column.cpu() for column in found))
        return on_cpu.to_original(batch.scales[0], batch.original_sizes[0])
