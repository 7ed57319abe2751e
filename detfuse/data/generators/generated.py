"""A data set that is drawn rather than photographed: the contract, and how it becomes files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from detfuse.data.generators.canvas import Canvas
from detfuse.data.layout import Split
from detfuse.ranges import PositiveInt


@dataclass(frozen=True, kw_only=True)
class GeneratedData(ABC):
    """What a generated data set depends on, and how its images are drawn; a subclass adds its own parameters.

    Args:
        num_train: training images.
        num_val: validation images.

    Attributes:
        kind: begins the folder's name.
        version: raise it when the drawing changes: the folder's name depends on it.
        categories: category id to name.
        suffix: of the image files: ``.jpg``, or ``.png`` where no pixel may depend on its neighbours'.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    categories: ClassVar[dict[int, str]]
    suffix: ClassVar[str] = ".jpg"

    num_train: PositiveInt
    num_val: PositiveInt

    @abstractmethod
    def draw(self, split: Split, number: int) -> Canvas:
        """One image of a split: a function of the parameters, the split and its number alone."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the data depend on, in plain containers."""
        return {"version": self.version, **asdict(self)}

    @property
    def folder(self) -> str:
        """Name that differs whenever the data would."""
        text = json.dumps(self.parameters, sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def generate(root: Path, data: GeneratedData) -> Path:
    """Write the data set below ``root`` unless it is there; safe with several processes at once.

    Everything is written to a temporary folder beside the target, which is then renamed: a folder that has the final
    name is complete. Other parameters get another folder.

    Returns:
        The folder, with ``annotations/instances_{train,val}.json`` and ``images/{train,val}/``.
    """
    target = root / data.folder
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{data.folder}-", dir=root))
    try:
        draft.chmod(0o755)  # mkdtemp's is private to the user
        (draft / "parameters.json").write_text(json.dumps(data.parameters, indent=2) + "\n")
        _write_split(draft, "train", data.num_train, data)
        _write_split(draft, "val", data.num_val, data)
        try:
            os.rename(draft, target)  # noqa: PTH104  atomic, and refused where another process was faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_split(folder: Path, split: Split, number: int, data: GeneratedData) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    image_folder = folder / "images" / split
    image_folder.mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for i in range(number):
        canvas = data.draw(split, i)
        height, width, _ = canvas.pixels.shape
        image_id = 2 * i + (1 if split == "train" else 2)
        name = f"{image_id:06d}{data.suffix}"
        Image.fromarray(canvas.pixels.round().astype(np.uint8)).save(image_folder / name, quality=92)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for record in canvas.records:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **record})
    categories = [{"id": id_, "name": name} for id_, name in data.categories.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
