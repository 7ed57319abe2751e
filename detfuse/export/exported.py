"""Running an exported file: nothing of it is built from a configuration, and nothing but the file is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from detfuse.export.deployed import CANDIDATES, DETECTIONS, INPUTS, OUTPUTS, place
from detfuse.export.description import KEY, Description, ExportError
from detfuse.export.formats import FORMATS, format_of, missing
from detfuse.export.program import description_of
from detfuse.structures import Categories, Detections

_Call = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class Exported:
    """A detector read from an exported file, on the CPU in float32.

    Args:
        path: of the file.
        description: what the file says about itself.
        call: images (B, 3, H, W) uint8 and image sizes (B, 2) to the outputs.
    """

    def __init__(self, path: Path, description: Description, call: _Call) -> None:
        self.path = path
        self.description = description
        self.transform = description.transform()
        self._call = call

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.description.categories

    @torch.inference_mode()
    def run(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        """The file's outputs by name; see :meth:`detfuse.export.Deployed.forward`.

        Raises:
            ExportError: if the file cannot compute images of this size.
        """
        try:
            outputs = self._call(images, image_sizes)
        except Exception as error:  # whatever the engine's kernels say of it; onnxruntime's errors have no base
            height, width = images.shape[-2:]
            raise ExportError(
                f"{self.path}: cannot compute images of {height} x {width} pixels (height x width): "
                f"{str(error).strip()[:300]}; predict them with the checkpoint"
            ) from error
        return dict(zip(OUTPUTS, outputs, strict=True))

    def __call__(self, image: Tensor) -> Detections:
        """Detections in pixels of the image (3, H, W) uint8."""
        sample = self.transform.evaluate(image)
        found = detections(self.run(*place(sample.image, self.description.divisor)))
        return found.to_original(torch.tensor(sample.scale), torch.tensor(sample.original_size))


def detections(outputs: dict[str, Tensor]) -> Detections:
    """The rows that are detections, of the outputs of a file for one image, in pixels of the resized image.

    Before them come candidates with the score NaN, if there are any: the file's suppression leaves them out.
    """
    count = int(outputs["count"])
    broken = outputs["candidate_scores"][0].isnan()
    pairs = zip(CANDIDATES, DETECTIONS[:-1], strict=True)
    return Detections(*(torch.cat([outputs[all_][0, broken], outputs[kept][0, :count]]) for all_, kept in pairs))


def read_exported(path: Path) -> Exported:
    """Read an exported file; its suffix says which kind it is.

    Both are data: what torch would run when it opens a ``.pt2`` is refused before (:mod:`detfuse.export.program`).

    Raises:
        ExportError: if it cannot be read, or was not written by this program.
    """
    kind = format_of(path)
    if kind is None:
        raise ExportError(f"{path}: exported files end in {' or '.join(f'.{name}' for name in FORMATS)}")
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    text, call = _read_onnx(path) if kind == "onnx" else _read_pt2(path)
    if not text:
        raise ExportError(f"{path}: was not exported by detfuse (it has no {KEY!r} in its metadata)")
    return Exported(path, Description.from_json(text, path), call)


def _read_onnx(path: Path) -> tuple[str, _Call]:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(str(path), error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ExportError(f"{path}: onnxruntime cannot read it ({error}); export the checkpoint again") from error

    def call(images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        feeds = dict(zip(INPUTS, (images.numpy(), image_sizes.numpy()), strict=True))
        return tuple(torch.from_numpy(column) for column in session.run(list(OUTPUTS), feeds))

    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return metadata.get(KEY, ""), call


def _read_pt2(path: Path) -> tuple[str, _Call]:
    text = description_of(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # whatever its readers of zip, JSON and graph stumble over
        raise ExportError(f"{path}: torch cannot read it ({error}); export the checkpoint again") from error
    call: _Call = program.module()
    return text, call
