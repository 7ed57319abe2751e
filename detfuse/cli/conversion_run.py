"""``convert``: a data set of any form as COCO's json."""

from __future__ import annotations

import json
from pathlib import Path

from detfuse.build import build_data
from detfuse.cli.settings import ConvertSettings
from detfuse.data import AnnotationIndex, DetectionDataModule, coco_of
from detfuse.files.text import write_text
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_folder

_NAMES = {"train": "instances_train.json", "val": "instances_val.json", "default": "instances_default.json"}


def run(invocation: Invocation) -> None:
    """Write the splits that there are, ``default`` where there are none.

    Raises:
        UserError: whatever the user can put right.
    """
    settings = ConvertSettings.of(invocation.config)
    folder = Path(settings.output).expanduser()
    require_folder(folder, files=list(_NAMES.values()))
    data = build_data(invocation.config | {"seed": 0}, 1)
    data.prepare_data()
    for name, index in _indexes(data).items():
        file = folder / _NAMES[name]
        content = coco_of(index, numbered=settings.image_ids == "numbers")
        write_text(file, json.dumps(content, allow_nan=False) + "\n")
        note_made(file)
        print(f"{name + ':':8} {index.summary()}")
        print(f"         {index.form}: {index.source}, images in {index.root}")
        print(f"         written to {file}")
        if isinstance(index.ids[0], str) and settings.image_ids == "kept":
            print("         image ids are the files' names; for tools that need numbers: image_ids=numbers")


def _indexes(data: DetectionDataModule) -> dict[str, AnnotationIndex]:
    found = data.read_all()
    if data.undivided is not None:
        return {"default": data.undivided}
    return {str(split): index for split, index in found.items()}
