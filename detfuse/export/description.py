"""What an exported file says about itself: plain JSON, stored inside the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detfuse.data import Transforms
from detfuse.data.steps import Rule
from detfuse.errors import InputError
from detfuse.structures import Categories, Size

KEY = "detfuse"
"""Under which it is stored: in ONNX's metadata, and as ``detfuse.json`` in a ``.pt2``."""


class ExportError(InputError):
    """What cannot be exported, or an exported file that cannot be used; the message names the fault and the remedy."""


@dataclass(frozen=True)
class Resizing:
    """How an image is resized before it is padded; see :class:`~detfuse.data.Transforms`."""

    size: Size | None
    short_side: int
    long_side: int | None
    resize: Rule = "smooth"


@dataclass(frozen=True)
class Description:
    """All that is needed to use an exported file.

    Args:
        version: of detfuse that wrote it.
        model: the detector in a line, for people.
        categories: the classes.
        resize: how images are resized.
        divisor: height and width of the resized images are padded to multiples of it, at the bottom and the right.
        combine: the suppression in the file, with its settings, for people.
    """

    version: str
    model: str
    categories: Categories
    resize: Resizing
    divisor: int
    combine: dict[str, Any]

    def transform(self) -> Transforms:
        """The resizing."""
        return Transforms(**asdict(self.resize))

    def to_json(self) -> str:
        """As stored."""
        return json.dumps(asdict(self) | {"categories": self.categories.as_dict()}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Description:
        """Inverse of :meth:`to_json`; the text is data, nothing in it is called.

        Args:
            text: from a file.
            path: of that file, for messages.

        Raises:
            ExportError: if it was not written by this program, or by an older one whose files take one size only.
        """
        try:
            content = json.loads(text)
            if "divisor" not in content and "size" in content:
                raise _of_one_size(path, content)
            description = cls(
                version=_typed(content["version"], str),
                model=_typed(content["model"], str),
                categories=Categories.from_dict(content["categories"]),
                resize=_resize(content["resize"]),
                divisor=_typed(content["divisor"], int),
                combine=_typed(content["combine"], dict),
            )
            description.transform()
            if description.divisor < 1:
                raise InputError(f"expected a divisor of at least 1, got {description.divisor}")
        except ExportError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ExportError(
                f"{path}: its description ({KEY!r} in its metadata) is malformed "
                f"({type(error).__name__}: {error}); export the checkpoint again"
            ) from error
        return description


def _of_one_size(path: Path, content: dict[str, Any]) -> ExportError:
    return ExportError(
        f"{path}: was exported by detfuse {content.get('version')!r:.20}, whose files pad every image to "
        f"{content['size']!r:.40}, which costs AP wherever evaluation pads less; export the checkpoint again"
    )


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"expected {kind.__name__}, got {value!r}")
    return value


def _size(value: Any) -> Size:
    height, width = (_typed(side, int) for side in _typed(value, list))
    return height, width


def _resize(value: Any) -> Resizing:
    long_side = value["long_side"]
    return Resizing(
        size=None if value["size"] is None else _size(value["size"]),
        short_side=_typed(value["short_side"], int),
        long_side=None if long_side is None else _typed(long_side, int),
        resize=value.get("resize", "smooth"),  # what it may be, the transform says
    )
