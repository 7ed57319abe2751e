"""Documents as nobody means them: sound ones of which values, keys, structure and bytes were changed."""

from __future__ import annotations

import codecs
import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

NUMBERS = [0, -1, 1, 2, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400]
FLOATS = [0.0, -0.0, 0.5, 1e-320, 1e30, 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    *("", " ", "0", "1", "-1", "1e9", "NaN", "null", "true", "~", "٣", "²", "1_0", "０"),
    *("\x1b[31mred", "\x1b]0;t\x07", "a\0b", "a\nb", "\r", "\u202eabc", "\ufeff", "\ud800", "💥", "é", "e\u0301"),
    *("../../x", "/etc/passwd", "C:\\x", "a/b", ".", "..", "con", "x" * 300, "x" * 5000),
    *("${oc.env:HOME}", "${neck}", "\\${x}", "{}", "[]", "!!python/object:x", "os.system", "<script>", "%s", "{0}"),
]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(FLOATS), st.sampled_from(TEXTS)
)

_DEEPEST = 8


def _deep(levels: int, inside: Any) -> Any:
    """A value within many lists and mappings."""
    for level in range(levels):
        inside = [inside] if level % 2 else {"a": inside}
    return inside


VALUES: st.SearchStrategy[Any] = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=5),
    st.dictionaries(st.sampled_from(["id", "_target_", "a", "", "0"]), SCALARS, max_size=3),
    st.builds(_deep, st.sampled_from([2, 45, 400]), SCALARS),
)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value within a document, as far as it is as deep as sound ones are."""
    items: Any = ()
    if len(path) < _DEEPEST:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, item in items for place in ((*path, key), *_places(item, (*path, key)))]


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


@st.composite
def changed(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A document with one to ``most`` changes: values of other kinds, keys lost, renamed or more, records repeated."""
    content = deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = _places(content)
        if not places:
            break
        *above, key = draw(st.sampled_from(places))
        parent = _at(content, tuple(above))
        match draw(st.sampled_from(["replace", "replace", "swap", "remove", "repeat", "rename", "wrap", "more"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "swap":  # values that are right, but elsewhere
                parent[key] = deepcopy(_at(content, draw(st.sampled_from(places))))
            case "remove":
                del parent[key]
            case "repeat" if isinstance(parent, list):
                parent.insert(key, deepcopy(parent[key]))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["ID", "Id", "id ", "", "_target_", *TEXTS]))] = parent.pop(key)
            case "wrap":
                parent[key] = draw(st.sampled_from([[parent[key]], {"value": parent[key]}, str(parent[key])]))
            case _:
                if isinstance(parent, dict):
                    parent[draw(st.sampled_from(["more", *TEXTS]))] = draw(VALUES)
                else:
                    parent.append(draw(VALUES))
    return content


@st.composite
def as_bytes(draw: st.DrawFn, text: str) -> bytes:
    """A text as a file has it: mostly as it should, else cut, with other bytes, or in another encoding."""
    sound = text.encode("utf-8", errors="surrogatepass")
    at = draw(st.integers(0, len(sound)))
    match draw(st.sampled_from([*["sound"] * 6, "cut", "flip", "insert", "bom", "utf-16", "latin-1", "twice"])):
        case "cut":
            return sound[:at]
        case "flip" if at < len(sound):
            return sound[:at] + bytes([sound[at] ^ (1 << draw(st.integers(0, 7)))]) + sound[at + 1 :]
        case "insert":
            odd = draw(
                st.sampled_from([b"\0", b"\xff", b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80", b",", b"9" * 5000])
            )
            return sound[:at] + odd + sound[at:]
        case "bom":
            return codecs.BOM_UTF8 + sound
        case "utf-16":
            return text.encode("utf-16", errors="replace")
        case "latin-1":
            return text.encode("latin-1", errors="replace")
        case "twice":
            return sound + sound
        case _:
            return sound


@st.composite
def json_files(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON file near a document: also with a key that stands twice, which no parsed content can show."""
    text = json.dumps(draw(changed(document)), ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(sorted({str(place[-1]) for place in _places(document)})))
        text = text.replace("{", "{" + f'"{key}": {draw(st.sampled_from(["1", "null", "[]", "NaN"]))}, ', 1)
    return draw(as_bytes(text))
