"""Command lines as they are mistyped: each is checked to its end, and what passes can be composed."""

from __future__ import annotations

from typing import Any

from hostile import NUMBERS, TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from detfuse.cli import COMMANDS
from detfuse.config import TrainSettings, check, conf_dir, group_options, resolve
from detfuse.errors import InputError
from detfuse.words import printable

CONFIG = resolve([], TrainSettings).config
CHOICES = resolve([], TrainSettings).choices


def _paths(node: Any, path: str = "") -> list[str]:
    items = node.items() if isinstance(node, dict) else []
    return [found for key, item in items for found in (f"{path}{key}", *_paths(item, f"{path}{key}."))]


KEYS = [*_paths(CONFIG), *CHOICES, *group_options([conf_dir()])]
OPTIONS = sorted({option for options in group_options([conf_dir()]).values() for option in options})
_VALUE_TEXTS = [
    *map(str, NUMBERS),
    *(
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-320",
        "0.5",
        "-0",
        "0x10",
        "1_000",
        "01",
        "1e",
        ".",
        "true",
        "null",
        "'1'",
        '"a b"',
    ),
    *("[]", "{}", "[3,4]", "[[1]]", "{a:1}", "{_target_:os.system}", "{a:{b:[1,{c:2}]}}", "[" * 300 + "]" * 300),
    *("a,b", "1,2,3", "choice(1,2)", "range(0,3)", "interval(0,1)", "glob(*)", "shuffle(1,2)", "sort(2,1)", "tag(a,1)"),
    *("str(1)", "int(a)", "cast(1)", "choice(choice(1))", "range(0,inf)", "range(0,1,0)", "glob()", "1,2,choice(3)"),
    *("${seed}", "${oc.env:HOME}", "${x", "???", "[", "]", "{", "a:b", "a=b", "=", "'", "\\", "$", "@", "~", "a b"),
]
WORDS = st.one_of(st.sampled_from(_VALUE_TEXTS), st.sampled_from(OPTIONS), st.sampled_from(TEXTS), st.text(max_size=8))


@st.composite
def _mistyped(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from(KEYS))
    at = draw(st.integers(0, len(key)))
    return draw(
        st.sampled_from([key, key, key, key[:at], key[:at] + "x" + key[at:], key[:at] + "." + key[at:], f"{key}.a"])
    )


_OVERRIDE = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "", "+", "++", "~", "~~", "-", "@"]),
    st.one_of(_mistyped(), st.sampled_from(["hydra.run.dir", "hydra/sweeper", "hydra.searchpath", *TEXTS])),
    st.sampled_from(["=", "=", "=", "=", "", "==", ":", "@x="]),
    WORDS,
)
_FLAG = st.sampled_from(
    [
        *("-m", "--cfg", "job", "--resolve", "--config-dir", "--config-name=x", "--config-path=..", "--info"),
        *("--package=x", "--run", "-x", "--", "-c", "--experimental-rerun=x", "--config-dir=/nowhere", "-cn"),
    ]
)
COMMAND_LINES = st.lists(st.one_of(_OVERRIDE, _OVERRIDE, _OVERRIDE, _FLAG), min_size=1, max_size=4)


def try_out(command: str, argv: list[str]) -> None:
    """What it says can be printed; what it lets pass can be composed."""
    problems = check(argv, COMMANDS[command].settings)
    for problem in problems:
        assert problem
        printable(problem).encode()
    if not problems:
        resolve(argv, COMMANDS[command].settings)


@settings(max_examples=settings.default.max_examples // 3)
@given(st.sampled_from(["train", "train", "compare", "evaluate"]), COMMAND_LINES)
def test_whatever_is_typed(command: str, argv: list[str]) -> None:
    try:
        try_out(command, argv)
    except InputError as error:
        raise AssertionError(f"it was not told by the check: {error}") from error
