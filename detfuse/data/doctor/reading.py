"""The splits as training would read them, with what it would refuse or repair as findings."""

from __future__ import annotations

import warnings
from typing import get_args

from detfuse.data.doctor.case import SHOWN, Finding
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.data.layout import Split
from detfuse.data.splits import DetectionDataModule, check_categories
from detfuse.errors import UserError

RECORDS = "records"
"""The name of this check among the others."""

_REFUSED = "correct or remove the records; training refuses the data set"
_CORRECT = "correct the records, or leave it: training does the same"


def read_splits(data: DetectionDataModule) -> tuple[dict[Split, AnnotationIndex], list[Finding]]:
    """Read what there is; a split that cannot be read is a finding.

    Args:
        data: not yet set up.
    """
    indexes: dict[Split, AnnotationIndex] = {}
    findings: list[Finding] = []
    for split in get_args(Split):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            try:
                indexes[split] = data.read(split)
            except Exception as error:  # as of any other check that fails
                told = {finding.what for finding in findings}  # such as of a folder that is not there
                findings += [finding for finding in _refused(split, error) if finding.what not in told]
        # a folder that nothing divides is read once, with both splits
        findings += [_repaired(split, each.message) for each in caught if isinstance(each.message, DataWarning)]
    if len(indexes) == 2:
        try:
            check_categories(indexes["train"], indexes["val"])
        except DataError as error:
            findings += _refused("train, val", error)
    return indexes, findings


def _refused(split: str, error: Exception) -> list[Finding]:
    if isinstance(error, DataError) and error.refused:
        return [
            Finding("error", RECORDS, split, len(names), len(names), "", what, names[:SHOWN], _REFUSED)
            for what, names in error.refused.items()
        ]
    what = str(error) if isinstance(error, UserError) else f"reading itself failed: {type(error).__name__}: {error}"
    return [Finding("error", RECORDS, split, 1, 1, "", what, (), "then check again: reading ends at such a fault")]


def _repaired(split: str, warning: DataWarning) -> Finding:
    if not warning.records:
        return Finding("repair", RECORDS, split, 1, 1, "", str(warning), (), _CORRECT)
    count = len(warning.records)
    return Finding("repair", RECORDS, split, count, count, "", warning.what, warning.records[:SHOWN], _CORRECT)
