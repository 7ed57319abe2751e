"""What ``predict`` predicts with: a checkpoint's detector, or an exported file."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from detfuse.build import build_combine, build_detector, instantiate, size_divisor
from detfuse.cli.evaluation_run import stored
from detfuse.cli.jobs import Invocation
from detfuse.config import PredictSettings
from detfuse.data import Transforms, collate
from detfuse.errors import UserError
from detfuse.export import format_of, read_exported
from detfuse.protocols import Combine
from detfuse.structures import Categories, Detections
from detfuse.weights.checkpoint import Checkpoint, load_weights

_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


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
        self.categories = checkpoint.categories
        detector = build_detector(config, len(checkpoint.categories))
        load_weights(detector, checkpoint)
        self.device = compute_device(config["trainer"].get("accelerator", "auto"))
        channels_last = config["module"].get("channels_last", True)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.detector = detector.to(self.device).eval()
        self.combine: Combine = build_combine(config)
        self.transform: Transforms = instantiate(config["data"]["transform"])()
        self.divisor = self.transform.divisor(size_divisor(detector.backbone.out_spec))
        self.half = _HALF.get(config["trainer"].get("precision", "32-true"))

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Detections:
        """See :class:`Predictor`."""
        batch = collate([self.transform.evaluate(image)], size_divisor=self.divisor)
        images = batch.images.to(self.device).contiguous(memory_format=self.memory_format)
        context: AbstractContextManager[Any] = (
            torch.autocast(self.device.type, dtype=self.half) if self.half else nullcontext()
        )
        with context:
            found = self.detector.predict(images, batch.image_sizes.to(self.device), self.combine)[0]
        on_cpu = Detections(*(column.cpu() for column in found))
        return on_cpu.to_original(batch.scales[0], batch.original_sizes[0])


def compute_device(accelerator: str) -> torch.device:
    """The device of ``trainer.accelerator`` where no trainer is built.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    if accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in {"gpu", "cuda"}:
        raise UserError(f"trainer.accelerator={accelerator}: torch sees no GPU here")
    if accelerator == "mps":
        return torch.device("mps")
    return torch.device("cpu")
