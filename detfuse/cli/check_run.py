"""``check``: what is wrong with a data set, or worth a look, before anything is trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detfuse.build import build_backbone, build_data, build_detector, size_divisor, without_pretrained
from detfuse.cli.settings import CheckSettings
from detfuse.data import AnnotationIndex, DetectionDataModule, FolderDataModule
from detfuse.data.doctor import CHECKS, Case, Finding, Fit, as_json, examined, look_at, read_splits, told
from detfuse.errors import UserError
from detfuse.evaluation.engines import MAX_DETECTIONS
from detfuse.files.text import write_json
from detfuse.inspect.fit import fit_of
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_file
from detfuse.words import shown

WORTH_A_LOOK, REFUSED = 1, 2
"""Exit codes: repairs or notes; errors."""


def run(invocation: Invocation) -> None:
    """Print what was found, write ``output`` if it is given, and leave with the exit code that says how grave it is.

    Raises:
        UserError: whatever the user can put right before a check can begin; in a sweep, for a data set with errors.
    """
    config = {"seed": 0, **invocation.config}
    settings = CheckSettings.of(config)
    output = require_file(Path(settings.output).expanduser()) if settings.output else None
    data = build_data(config, 1)
    data.prepare_data()
    if isinstance(data, FolderDataModule):
        data.check_images = "nothing"  # each file has a look of its own below
    indexes, findings = read_splits(data)
    for split, index in indexes.items():
        print(f"{split + ':':6} {index.summary()}\n       {index.form}: {index.source}, images in {index.root}")
    print(flush=True)
    if settings.only is not None and "records" not in settings.only:
        findings = [finding for finding in findings if finding.severity == "error"]
    if indexes:
        findings += examined(_case(settings, config, data, indexes), settings.only)
    findings.sort(key=lambda finding: finding.severity != "error")
    print(told(findings))
    if output is not None:
        ran = [check.name for check in CHECKS if not (settings.fast and check.pixels)]
        chosen = [name for name in ["records", *ran] if settings.only is None or name in settings.only]
        write_json(output, as_json(findings, indexes, chosen))
        note_made(output)
        print(f"written to {output}")
    _leave(findings, invocation)


def _case(
    settings: CheckSettings, config: dict[str, Any], data: DetectionDataModule, indexes: Mapping[Any, AnnotationIndex]
) -> Case:
    looks = {
        split: look_at(
            index,
            decode=not settings.fast,
            follow_symlinks=bool(config["data"].get("follow_symlinks")),
            workers=settings.workers or len(os.sched_getaffinity(0)),
            tell=_progress(len(index)),
        )
        for split, index in indexes.items()
    }
    return Case(
        indexes=indexes,
        looks=looks,
        decoded=not settings.fast,
        transform=data.transform,
        max_detections=config["combine"].get("max_detections"),
        scored_detections=MAX_DETECTIONS[-1],
        fit=_fit_by(config, data),
    )


def _fit_by(config: dict[str, Any], data: DetectionDataModule) -> Callable[[AnnotationIndex], Fit | None]:
    """Builds the detector once it is asked for."""

    @cache
    def fit(index: AnnotationIndex) -> Fit | None:
        backbone = build_backbone(without_pretrained(config))
        detector = build_detector(config, len(index.categories), backbone)
        return fit_of(detector, index, data.transform, size_divisor(backbone.out_spec))

    return fit


def _progress(total: int) -> Callable[[int], None]:
    return lambda number: print(f"looked at {number:,} of {total:,} images", file=sys.stderr, flush=True)


def _leave(findings: list[Finding], invocation: Invocation) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if invocation.multirun:  # the other runs of a sweep go on
        if errors:
            raise UserError(f"{len(errors)} errors, the first: {shown(errors[0].what)}")
    elif findings:
        sys.exit(REFUSED if errors else WORTH_A_LOOK)
