"""The page: one HTML file, no network, a few lines of script that hide and show; what others wrote is escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detfuse.data import AnnotationIndex, Transforms
from detfuse.data.layout import Split
from detfuse.inspect.gallery.cards import Card, View
from detfuse.structures import Categories
from detfuse.visualize import draw
from detfuse.visualize.boxes import class_color
from detfuse.visualize.histogram import histogram
from detfuse.words import escaped

SIZES = ("small", "medium", "large")
_BOUNDS = (32, 96)  # COCO's, here in pixels of the resized image
_SIDES = (4, 8, 16, 32, 64, 128, 256, 512)
_ASPECTS = (0.12, 0.25, 0.5, 0.7, 1.4, 2, 4, 8)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_COUNT_BINS = ("0", "1", *(f"{low}–{high - 1}" for low, high in pairwise(_COUNTS[1:])), f"≥ {_COUNTS[-1]}")
_MOST_CLASSES = 24  # in the histogram
_VIEWS = ("as it lies", "as it is fed")

Numbers = npt.NDArray[np.float64]


def gallery(title: str, indexes: Mapping[Split, AnnotationIndex], cards: Iterable[Card], transform: Transforms) -> str:
    """The whole document.

    Args:
        title: of the page.
        indexes: of the splits, for the histograms.
        cards: the images that are shown.
        transform: sizes are those of the resized images.
    """
    categories = next(iter(indexes.values())).categories
    shown = list(cards)
    texts = {name: Path(__file__).with_name(f"gallery.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    lines = "".join(
        f"<p>{escaped(split)}: {escaped(index.summary())}; {escaped(index.form)}, {escaped(str(index.source))}</p>"
        for split, index in indexes.items()
    )
    figures = "".join(f"<figure>{figure}</figure>" for figure in _histograms(indexes, transform))
    grid = "".join(_card(card, categories) for card in shown)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<title>{escaped(title)}</title>\n<style>\n{texts['css']}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kicker">data set</p><h1>{escaped(title)}</h1>{lines}</header>\n'
        f'<section class="figures">{figures}</section>\n<section><h2>Images <output id="count"></output></h2>\n'
        f"{_filters(indexes, shown)}\n"
        f'<div id="grid" class="lies fed">{grid}</div></section>\n</main>\n<script>\n{texts["js"]}</script>\n'
        "</body>\n</html>\n"
    )


def _filters(indexes: Mapping[Split, AnnotationIndex], cards: Sequence[Card]) -> str:
    categories = next(iter(indexes.values())).categories
    counts = np.zeros((2, len(categories)), np.int64)  # as they lie and as they are fed
    for card in cards:
        for row, view in zip(counts, card.views, strict=False):
            row += np.bincount(view.objects.labels.numpy(), minlength=len(categories))
    classes = "".join(
        _box("class", str(label), f"{name} ({count})", color=_hex(label))
        for label, (name, count) in enumerate(zip(categories.names, counts[0].tolist(), strict=True))
        if counts[:, label].any()
    )
    low, high = _BOUNDS
    words = (f"small, below {low} px", "medium", f"large, from {high} px")
    sizes = "".join(_box("size", size, text) for size, text in zip(SIZES, words, strict=True))
    splits = "".join(_box("split", split, split) for split in indexes)
    views = "".join(_box("view", key, text) for key, text in zip(("lies", "fed"), _VIEWS, strict=True))
    return (
        f'<form id="filters"><fieldset><legend>Show</legend>{splits}{views}{_box("names", "on", "names", on=False)}'
        f"{_box('empty', 'on', 'images without objects')}</fieldset>"
        f"<fieldset><legend>Size of the box, when resized</legend>{sizes}</fieldset>"
        '<fieldset class="classes"><legend>Class (boxes in these images) '
        '<button type="button" data-all="1">all</button> <button type="button" data-all="">none</button></legend>'
        f"{classes}</fieldset></form>"
    )


def _box(name: str, value: str, text: str, *, on: bool = True, color: str | None = None) -> str:
    chip = f'<i style="background:{color}"></i>' if color else ""
    checked = " checked" if on else ""
    return (
        f'<label><input type="checkbox" name="{name}" value="{escaped(value)}"{checked}>{chip}{escaped(text)}</label>'
    )


def _card(card: Card, categories: Categories) -> str:
    if not card.views:
        pictures = f'<p class="problem">{escaped(card.problem)}</p>'
    else:
        pictures = "".join(
            _picture(view, kind, words, categories)
            for view, kind, words in zip(card.views, ("lies", "fed"), _VIEWS, strict=True)
        )
    caption = f"<figcaption>{escaped(card.split)} · {escaped(card.name)}</figcaption>"
    return f'<figure class="card" data-split="{card.split}">{pictures}{caption}</figure>'


def _picture(view: View, kind: str, words: str, categories: Categories) -> str:
    height, width = view.size
    marks = []
    for box, label, crowd in zip(*(column.tolist() for column in view.objects), strict=True):
        x1, y1, x2, y2 = box
        side = ((x2 - x1) * (y2 - y1) * view.scale[0] * view.scale[1]) ** 0.5
        size = SIZES[sum(side >= bound for bound in _BOUNDS)]
        sides = f"{(x2 - x1) * view.scale[1]:.0f} x {(y2 - y1) * view.scale[0]:.0f} px"
        name = categories.names[label]
        told = f"{name}{', crowd or to be ignored' if crowd else ''}, {sides} when resized"
        color = _hex(label)
        rect = draw.element(
            "rect",
            *draw.titled(told),
            x=x1,
            y=y1,
            width=max(x2 - x1, 0.5),
            height=max(y2 - y1, 0.5),
            stroke=color,
            stroke_dasharray="6 4" if crowd else None,
        )
        text = draw.text(x1, y1 - 2, name, size=max(height, width) / 28, color=color)
        marks.append(draw.element("g", rect, text, class_="mark", data_class=str(label), data_size=size))
    # the boxes have the pixels of the image, the picture may be smaller
    overlay = draw.element("svg", *marks, viewBox=f"0 0 {width} {height}") if marks else ""
    source = b64encode(view.jpeg).decode("ascii")
    image = f'<img loading="lazy" alt="{escaped(words)}" src="data:image/jpeg;base64,{source}">'
    return f'<div class="view {kind}" title="{escaped(words)}, {width} x {height}">{image}{overlay}</div>'


def _histograms(indexes: Mapping[Split, AnnotationIndex], transform: Transforms) -> list[str]:
    """Of all images: classes, sizes, aspect ratios, objects per image."""
    colors = dict(zip(indexes, draw.PALETTE, strict=False))
    sides = {split: _sides(index, transform) for split, index in indexes.items()}

    def columns(bins: Sequence[str], counted: Mapping[Split, npt.NDArray[np.int64]], title: str, label: str) -> str:
        groups = [(str(split), colors[split], counts.tolist()) for split, counts in counted.items()]
        return histogram(bins, groups, title=title, label=label)

    def spread(values: Mapping[Split, Numbers], bounds: Sequence[float]) -> dict[Split, npt.NDArray[np.int64]]:
        return {
            split: np.bincount(np.searchsorted(bounds, each, side="right"), minlength=len(bounds) + 1)
            for split, each in values.items()
        }

    per_class = {s: np.bincount(i.labels[i.counted], minlength=len(i.categories)) for s, i in indexes.items()}
    order = np.argsort(-np.sum(list(per_class.values()), axis=0), kind="stable")[:_MOST_CLASSES]
    names = [next(iter(indexes.values())).categories.names[label] for label in order.tolist()]
    per_image = {s: np.bincount(i.images[i.counted], minlength=len(i)).astype(np.float64) for s, i in indexes.items()}
    sizes = {split: np.sqrt(each.prod(axis=1)) for split, each in sides.items()}
    aspects = {split: each[:, 1] / np.maximum(each[:, 0], 1e-9) for split, each in sides.items()}
    classes = {split: counts[order] for split, counts in per_class.items()}
    label = "class" if len(order) == len(next(iter(per_class.values()))) else f"the {len(order)} most frequent classes"
    return [
        columns(names, classes, "Objects by class, %", label),
        columns(_bins(_SIDES), spread(sizes, _SIDES), "Objects by size, %", "root of the area in px, when resized"),
        columns(_bins(_ASPECTS), spread(aspects, _ASPECTS), "Objects by shape, %", "height / width, when resized"),
        columns(_COUNT_BINS, spread(per_image, _COUNTS), "Images by number of objects, %", "objects"),
    ]


def _bins(bounds: Sequence[float]) -> list[str]:
    """Labels of the ranges between bounds, and of those below and beyond."""
    low = [f"{bound:.2g}" if bound < 10 else f"{bound:.0f}" for bound in bounds]
    return [f"< {low[0]}", *(f"{a}–{b}" for a, b in pairwise(low)), f"≥ {low[-1]}"]


def _sides(index: AnnotationIndex, transform: Transforms) -> Numbers:
    """(A, 2) width and height of the objects in their resized images."""
    resized = {size: transform.resized(*size) for size in set(map(tuple, index.sizes.tolist()))}
    scales = np.array([np.divide(resized[size], size)[::-1] for size in map(tuple, index.sizes.tolist())])
    sides: Numbers = (index.boxes[:, 2:] * scales[index.images])[index.counted]
    return sides


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(label))
