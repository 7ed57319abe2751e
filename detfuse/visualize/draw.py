"""The one writer of SVG: marks as text, in the colours and the type of all drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import ImageColor

from detfuse.words import escaped

INK, MUTED, FAINT, RULE = "#1f2933", "#52606d", "#9aa5b1", "#e4e7eb"
BASELINE = "#6b7280"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7b3294", "#8c510a")
"""Distinct for the colour-blind (after Okabe and Ito 2008, https://jfly.uni-koeln.de/color); the baseline is grey."""
_TURNS = ((INK, 0.0), (INK, 0.5), ("#ffffff", 0.45))
"""What the palette is mixed with when it begins again, and how much of that: darker, then lighter."""

_FONT = "Inter, Helvetica Neue, Helvetica, Arial, sans-serif"
_CHARACTER = 0.6  # width of an average character, in font sizes: bold, in a wide face where the first are missing


def color_of(position: int) -> str:
    """Of the n-th arm (from 0); the baseline is the first. The first 25 have colours of their own."""
    if position == 0:
        return BASELINE
    turn, place = divmod(position - 1, len(PALETTE))
    return _mixed(PALETTE[place], *_TURNS[turn % len(_TURNS)])


def _mixed(color: str, other: str, share: float) -> str:
    pairs = zip(ImageColor.getrgb(color), ImageColor.getrgb(other), strict=True)
    return "#" + "".join(f"{round(ours + share * (theirs - ours)):02x}" for ours, theirs in pairs)


def width_of(content: str, size: float) -> float:
    """About how many pixels a text takes."""
    return _CHARACTER * size * len(content)


def shortened(content: str, room: float, size: float) -> str:
    """A text that fits into ``room`` pixels."""
    most = max(2, int(room / (_CHARACTER * size)))
    return content if len(content) <= most else f"{content[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


Attributes = dict[str, str | float | None]


def element(name: str, *content: str, **attributes: str | float | None) -> str:
    """Any SVG element.

    Args:
        name: of the element.
        content: elements inside, or text that is escaped already.
        attributes: with ``_`` for ``-`` (``class_`` is ``class``); numbers are rounded to a tenth, which is enough for
            pixels, texts are escaped, None is left out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = " ".join([name, *(f'{key}="{_written(value)}"' for key, value in given.items())])
    return f"<{start}>{''.join(content)}</{name}>" if content else f"<{start}/>"


def _written(value: str | float) -> str:
    return escaped(value) if isinstance(value, str) else f"{round(value, 1):g}"


def titled(title: str) -> list[str]:
    """Content of an element that shows a title where the pointer rests on it; none if the title is empty."""
    return [element("title", escaped(title))] if title else []


def document(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A whole SVG document with a description for those who cannot see it."""
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_written(width)} {_written(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        font_family=_FONT,
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = 12,
    color: str = INK,
    anchor: str | None = None,
    bold: bool = False,
    halo: bool = False,
    title: str = "",
) -> str:
    """A line of text; ``y`` is its baseline. A halo keeps it readable where lines cross it."""
    rim: Attributes = {"stroke": "white", "stroke_width": 4, "stroke_linejoin": "round", "paint_order": "stroke"}
    weight = 600 if bold else None
    look: Attributes = {"font_size": size, "fill": color, "text_anchor": anchor, "font_weight": weight}
    return element("text", escaped(content), *titled(title), x=x, y=y, **look, **(rim if halo else {}))


def caption(x: float, y: float, content: str, *, size: float = 12) -> str:
    """A muted line of text around ``x``: what an axis or a tick says."""
    return text(x, y, content, size=size, color=MUTED, anchor="middle")


def line(
    x1: float, y1: float, x2: float, y2: float, *, color: str = RULE, width: float = 1, dash: str | None = None
) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=color, stroke_width=width, stroke_dasharray=dash)


def rect(x: float, y: float, width: float, height: float, *, color: str, opacity: float = 1, radius: float = 0) -> str:
    """A filled rectangle."""
    look: Attributes = {"rx": radius or None, "fill": color, "fill_opacity": opacity}
    return element("rect", x=x, y=y, width=max(width, 0), height=height, **look)


def dot(x: float, y: float, radius: float, color: str, *, hollow: bool = False, title: str = "") -> str:
    """A circle, filled or only its rim."""
    look: Attributes = {"fill": "white", "stroke": color, "stroke_width": 1.3} if hollow else {"fill": color}
    return element("circle", *titled(title), cx=x, cy=y, r=radius, **look)


def polyline(points: Sequence[tuple[float, float]], *, color: str, width: float = 2, dash: str | None = None) -> str:
    """Connected points."""
    look: Attributes = {"fill": "none", "stroke": color, "stroke_width": width, "stroke_linejoin": "round"}
    return element("polyline", points=_places(points), **look, stroke_dasharray=dash)


def polygon(points: Sequence[tuple[float, float]], *, color: str, opacity: float) -> str:
    """A filled area."""
    return element("polygon", points=_places(points), fill=color, fill_opacity=opacity)


def _places(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_written(x)},{_written(y)}" for x, y in points)
