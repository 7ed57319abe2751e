"""XML of unknown origin: elements and text, nothing that could read other files or grow."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detfuse.errors import InputError

_LARGEST = 64 * 2**20  # bytes; an image's annotations take some thousands


def read_xml(path: Path, *, largest: int = _LARGEST) -> Element:
    """The root element of a file of no more than so many bytes.

    A document type is refused, whatever it declares: entities are where XML reads other files and grows without bound,
    and annotations need none.

    Raises:
        InputError: naming the file, if it cannot be opened, is too large, declares a document type or is no XML.
    """
    try:
        if path.stat().st_size > largest:
            raise InputError(f"{path}: {path.stat().st_size / 2**20:,.0f} MB are too large for annotations in XML")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the annotation file cannot be opened ({error.strerror})") from error
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise InputError(f"{path}: declares a document type (<!DOCTYPE ...>), which annotations need not; remove it")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise InputError(
            f"{path}: not valid XML at line {error.lineno}, column {error.offset + 1} "
            f"({expat.ErrorString(error.code)}); the file may be empty or cut off: write or download it again"
        ) from error
    return builder.close()
