"""One pixel grid and one scaling, whoever reads a picture: training by its record, prediction without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from detfuse.data import DataWarning, load_image, read_coco
from detfuse.data.dataset import FileScenes
from detfuse.data.images import Header, header_of

HEIGHT, WIDTH = 24, 40
NEAR = {"P": 4, "I;16": 1}  # a palette has 256 colours for all pictures; 16 bits are cut, not rounded


def pattern(dtype: Any = np.uint8) -> np.ndarray:
    """Grey, different everywhere that turning could mix up."""
    grey = np.arange(HEIGHT * WIDTH, dtype=np.float64).reshape(HEIGHT, WIDTH) / (HEIGHT * WIDTH)
    return (grey * np.iinfo(dtype).max).astype(dtype)


def written(folder: Path, name: str, mode: str, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(pattern(np.uint16)) if mode == "I;16" else Image.fromarray(pattern()).convert(mode)
    image.save(folder / name, exif=exif)
    return folder / name


def read(file: Path) -> torch.Tensor:
    """As training and evaluation do."""
    image = {"id": 1, "file_name": file.name, "width": WIDTH, "height": HEIGHT}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (file.parent / "a.json").write_text(json.dumps(content))
    return FileScenes(read_coco(file.parent / "a.json", file.parent))[0].image


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "L"), ("a.png", "LA"), ("a.png", "P"), ("a.png", "RGBA"), ("a.png", "RGB"), ("a.png", "I;16"),
        ("a.tif", "I;16"), ("a.tif", "CMYK"), ("a.tif", "L"), ("a.bmp", "P"),
    ],
)  # fmt: skip
def test_training_and_prediction_see_the_same_pixels(tmp_path: Path, name: str, mode: str) -> None:
    file = written(tmp_path, name, mode)
    pixels = read(file)
    assert torch.equal(pixels, load_image(file))
    assert torch.equal(pixels, load_image(file, upright=True))
    expected = torch.from_numpy(pattern())
    assert (pixels.int() - expected).abs().max() <= NEAR.get(mode, 0)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.tif", "RGB"), ("a.tif", "I;16"), ("a.jpg", "L")])
def test_an_orientation_turns_only_what_no_annotation_fixes(
    tmp_path: Path, name: str, mode: str, orientation: int
) -> None:
    file = written(tmp_path, name, mode, orientation)
    with pytest.warns(DataWarning, match="1 images have an EXIF orientation"):
        stored = read(file)
    near = 12 if name == "a.jpg" else NEAR.get(mode, 0)
    assert (stored.int() - torch.from_numpy(pattern())).abs().max() <= near
    upright = load_image(file, upright=True)
    # What the standard says: where the first row and the first column of the stored pixels belong.
    turned = {
        2: stored.flip(2),
        3: stored.flip(1, 2),
        4: stored.flip(1),
        5: stored.mT,
        6: stored.mT.flip(2),
        7: stored.mT.flip(1, 2),
        8: stored.mT.flip(1),
    }[orientation]
    assert torch.equal(upright, turned)


def test_a_png_is_not_decoded_to_learn_how_it_is_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(pattern()).save(file)
    plain = file.read_bytes()
    before = written(tmp_path, "b.png", "RGB", orientation=6).read_bytes()
    start = before.index(b"eXIf") - 4
    chunk = before[start : start + 12 + int.from_bytes(before[start : start + 4], "big")]
    end = plain.index(b"IEND") - 4
    (tmp_path / "c.png").write_bytes(plain[:end] + chunk + plain[end:])  # behind the pixels, where it may stand, too
    size = HEIGHT, WIDTH
    assert header_of(tmp_path / "c.png", size).orientation == 6
    assert header_of(tmp_path / "b.png", size).orientation == 6
    monkeypatch.setattr(PngImageFile, "load", None)
    assert header_of(file, size) == Header("L", 1)
