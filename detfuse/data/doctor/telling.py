"""Findings as people and programs read them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from detfuse.data.doctor.case import SHOWN, Finding, Severity
from detfuse.data.index import AnnotationIndex
from detfuse.words import shown

_WIDTH = 110
_TITLES: dict[Severity, str] = {
    "error": "Errors: training would refuse these",
    "repair": "Repairs: training would go on with these, and say so",
    "note": "Notes: training takes these without a word",
}


def told(findings: Sequence[Finding]) -> str:
    """The findings, the gravest first, each with its first records and the remedy; and their number."""
    lines: list[str] = []
    for severity in get_args(Severity):
        of_kind = [finding for finding in findings if finding.severity == severity]
        if of_kind:
            lines += [_TITLES[severity], *(line for finding in of_kind for line in _lines(finding)), ""]
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in get_args(Severity)}
    said = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return "\n".join([*lines, ", ".join(said) or "nothing was found"])


def _lines(finding: Finding) -> list[str]:
    where = f" {finding.split}:" if finding.split else ""
    number = f" {finding.count:,}" if finding.unit or finding.count > 1 else ""
    total = f" of {finding.total:,} {finding.unit}" if finding.unit else ""
    first, *others = finding.what.split("\n")  # what a file is refused for may be a list
    lines = _wrapped(f"{finding.check:<19}{where}{number}{total} {first}", "  ")
    lines += [f"{'':22}{shown(other)}" for other in others]
    if finding.first:
        rest = ", ..." if finding.count > SHOWN else ""
        lines += _wrapped(", ".join(finding.first[:SHOWN]) + rest, f"{'':22}")
    return [*lines, *_wrapped(f"-> {finding.remedy}", f"{'':22}")]


def _wrapped(text: str, indent: str) -> list[str]:
    wrap = textwrap.TextWrapper(
        _WIDTH, initial_indent=indent, subsequent_indent=f"{'':22}", break_long_words=False, break_on_hyphens=False
    )
    return wrap.wrap(shown(text))


def as_json(findings: Sequence[Finding], indexes: Mapping[Any, AnnotationIndex], checks: Sequence[str]) -> Any:
    """The same as plain containers, with the splits that were read and the checks that ran."""
    splits = {
        split: {
            "annotations": str(index.source),
            "form": index.form,
            "folder": str(index.root),
            "images": len(index),
            "objects": int(index.counted.sum()),
        }
        for split, index in indexes.items()
    }
    return {"splits": splits, "checks": list(checks), "findings": [asdict(finding) for finding in findings]}
