"""``predict``: detections in pictures that nobody annotated."""

from __future__ import annotations

import glob
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from detfuse.build import build_combine, build_detector, instantiate, size_divisor
from detfuse.cli import results
from detfuse.cli.evaluation_run import run_folder_of, stored
from detfuse.cli.jobs import Invocation, UserError, told_plainly
from detfuse.config import PredictSettings
from detfuse.data import Transforms, collate, load_image
from detfuse.detector import Detector
from detfuse.evaluation.coco import coco_results
from detfuse.protocols import Combine
from detfuse.structures import Categories, Detections
from detfuse.visualize.boxes import draw_detections, save_picture
from detfuse.weights.checkpoint import load_weights

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


def run(invocation: Invocation) -> None:
    """Detect, draw, and write.

    ``<output>/<name>.jpg`` are the pictures. ``<output>/detections.json`` is a list of COCO results: ``image_id`` is
    the position of the picture (from 1, in the order of the names), ``file_name`` beside it says which one that is.
    """
    with told_plainly():
        settings = PredictSettings(**{name: invocation.config[name] for name in PredictSettings.__dataclass_fields__})
        files = find_pictures(settings.source)
        checkpoint, config = stored(invocation)
        detector = build_detector(config, len(checkpoint.categories))
        load_weights(detector, checkpoint)
        predictor = _Predictor(detector, config)
        default = run_folder_of(checkpoint.path) / "predictions"
        output = Path(settings.output).expanduser() if settings.output else default
    rows: list[dict[str, Any]] = []
    taken: Counter[str] = Counter()
    for image_id, file in enumerate(files, start=1):
        with told_plainly():
            image = load_image(file)
        found = predictor(image)
        found = _select(found, settings.threshold)
        picture = draw_detections(image, found, checkpoint.categories, threshold=settings.threshold)
        taken[file.stem] += 1
        number = taken[file.stem]
        name = file.stem if number == 1 else f"{file.stem}_{number}"
        written = save_picture(output / f"{name}.jpg", picture)
        of_image = coco_results(found, image_id, checkpoint.categories)
        rows += [{**row, "file_name": str(file)} for row in of_image]
        print(f"{file}: {_counted(found, checkpoint.categories)} -> {written}", flush=True)
    results.write_json(output / "detections.json", rows)
    print(f"{len(rows)} detections in {len(files)} pictures: {output / 'detections.json'}")


def find_pictures(source: str) -> list[Path]:
    """The picture, the pictures of a folder, or those of a glob pattern, sorted by name.

    Raises:
        UserError: if there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  Path.glob takes no absolute patterns
        files = [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if not files:
        what = "no such file, folder or pattern" if not path.exists() else "the folder has no pictures"
        raise UserError(f"source={source}: {what}; pictures end in {', '.join(sorted(_SUFFIXES))}")
    return sorted(files)


class _Predictor:
    """A detector on its device, with the checkpoint's image size and number format."""

    def __init__(self, detector: Detector, config: dict[str, Any]) -> None:
        self.device = compute_device(config["trainer"].get("accelerator", "auto"))
        channels_last = config["module"].get("channels_last", True)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.detector = detector.to(self.device).eval()
        self.combine: Combine = build_combine(config)
        self.transform: Transforms = instantiate(config["data"]["transform"])()
        self.divisor = self.transform.divisor(size_divisor(detector.backbone.out_spec))
        self.half = _HALF.get(config["trainer"].get("precision", "32-true"))

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor) -> Detections:
        """Detections in pixels of the image (3, H, W) uint8."""
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


def _select(found: Detections, threshold: float) -> Detections:
    rows = found.scores >= threshold
    return Detections(*(column[rows] for column in found))


def _counted(found: Detections, categories: Categories) -> str:
    counts = Counter(categories.names[label] for label in found.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
