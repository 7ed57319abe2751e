"""``browse``: a page to look at a data set."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from detfuse.build import build_data
from detfuse.cli.settings import BrowseSettings
from detfuse.files.text import write_text
from detfuse.inspect.gallery import cards_of, gallery
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_file


def run(invocation: Invocation) -> None:
    """Write the page of the splits that there are.

    Raises:
        UserError: whatever the user can put right.
    """
    settings = BrowseSettings.of(invocation.config)
    output = require_file(Path(settings.output).expanduser())
    data = build_data(invocation.config, 1)
    data.prepare_data()
    indexes = data.read_all()
    cards = chain.from_iterable(
        cards_of(split, index, data.transform, number=settings.images, seed=settings.seed)
        for split, index in indexes.items()
    )
    title = Path(invocation.config["data"]["root"]).expanduser().resolve().name
    write_text(output, gallery(title, indexes, cards, data.transform))
    note_made(output)
    for split, index in indexes.items():
        print(f"{split + ':':6} {index.summary()}")
    print(f"written to {output}: open it in a browser")
