"""All checks, the gravest first: what each finds, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection

from detfuse.data.doctor import boxes, classes, duplicates, pictures, reach
from detfuse.data.doctor.case import Case, Check, Finding

CHECKS: tuple[Check, ...] = (
    Check(
        name="images",
        severity="error",
        what="cannot be used",
        remedy="replace the files, or remove or correct their records",
        find=pictures.unusable,
    ),
    Check(
        name="leaks",
        what="of the second split are in the first one too: the validation numbers are flattered",
        remedy="take them out of one of the splits",
        find=duplicates.leaks,
        pixels=True,
    ),
    Check(
        name="near-leaks",
        what="of the second split nearly equal one of the first: the validation numbers are flattered",
        remedy="divide by scene, video or patient, and augmented copies with their original",
        find=duplicates.near_leaks,
        pixels=True,
    ),
    Check(
        name="only-in-one-split",
        what="have objects in this split alone",
        remedy="divide anew so that both splits have some, or remove the class from the list",
        find=classes.unseen,
    ),
    Check(
        name="too-many",
        what="have more objects than can be found",
        remedy="raise combine.max_detections, or cut such images into tiles; as it is, AP has a ceiling below 1",
        find=boxes.too_many,
    ),
    Check(
        name="reach",
        what="fit no prior of the detector",
        remedy="other image sizes (data.transform), levels of the neck, or sizes and aspect ratios of the head",
        find=reach.unreached,
    ),
    Check(
        name="tiny",
        what=f"are below {boxes.TINY:g} px at the size that they are resized to",
        remedy="a larger data.transform.short_side or size, or tiles",
        find=boxes.tiny,
    ),
    Check(
        name="turned",
        what="have an EXIF orientation, which training ignores and annotation tools may not",
        remedy="look whether their boxes fit; if not, save the images upright",
        find=pictures.turned,
    ),
    Check(
        name="twins",
        what=f"are there twice: another of their class overlaps with an IoU over {boxes.TWIN_IOU:g}",
        remedy="remove the copies: the second cannot be found, since suppression leaves one",
        find=boxes.twins,
    ),
    Check(
        name="whole-images",
        what="are as large as their image",
        remedy="look whether they are labels of the image rather than boxes",
        find=boxes.whole_images,
    ),
    Check(
        name="slivers",
        what=f"are thinner than {boxes.THIN:g} px, or longer than {boxes.LONG:g} times their width",
        remedy="look whether they are slips of the mouse",
        find=boxes.slivers,
    ),
    Check(
        name="few",
        what=f"have fewer than {classes.FEW} objects to learn from",
        remedy="annotate more, or join the class with another; its AP says little",
        find=classes.few,
    ),
    Check(
        name="unequal",
        what=f"have less than a {classes.UNEQUAL}th of the objects of the most frequent one",
        remedy="look at AP class by class: mAP counts each the same",
        find=classes.unequal,
    ),
    Check(
        name="alike-classes",
        what="differ from another in case, blanks or punctuation only",
        remedy="join them, unless they are meant to be two",
        find=classes.alike,
    ),
    Check(
        name="empty",
        what="have no objects",
        remedy="if they were not annotated, remove their records: what they show is learnt as background",
        find=classes.empty,
    ),
    Check(
        name="duplicates",
        what="have the content of another of their split",
        remedy="remove the copies; if their annotations differ, one is wrong",
        find=duplicates.copies,
        pixels=True,
    ),
    Check(
        name="near-duplicates",
        what="nearly equal another of their split",
        remedy="none, if they are frames of a video: they count for less than their number",
        find=duplicates.near_copies,
        pixels=True,
    ),
    Check(
        name="flat",
        what="have one colour only",
        remedy="replace the files or remove their records",
        find=pictures.flat,
        pixels=True,
    ),
    Check(
        name="modes",
        what="are stored otherwise than most; all become RGB of 8 bits",
        remedy="look whether that is meant: transparency is dropped, 16 bits are cut to 8",
        find=pictures.modes,
    ),
    Check(
        name="idle-levels",
        what="of the detector fit hardly any object",
        remedy="cost without use: fewer levels of the neck, or another image size",
        find=reach.idle_levels,
    ),
    Check(
        name="alike-files",
        what="have names that differ in case only",
        remedy="rename them: on Windows and macOS they are one file",
        find=pictures.alike_names,
    ),
    Check(
        name="without-record",
        what="have no record in any split that is used",
        remedy="none, if they are test images; else they were forgotten",
        find=pictures.without_record,
    ),
)


def examined(case: Case, only: Collection[str] | None = None) -> list[Finding]:
    """What the checks find, the gravest first.

    Args:
        case: the data set.
        only: names of checks; None: all that the case allows.
    """
    found: list[Finding] = []
    for check in CHECKS:
        if (only is None or check.name in only) and (case.decoded or not check.pixels):
            found += _found(check, case)
    return sorted(found, key=lambda finding: finding.severity != "error")


def _found(check: Check, case: Case) -> list[Finding]:
    try:
        results = [result for result in check.find(case) if result.count]
    except Exception as error:  # one that fails is told like any other error, and keeps none of the others from running
        what = f"this check itself failed: {type(error).__name__}: {error}"
        return [Finding("error", check.name, "", 1, 1, "", what, (), "the others ran; leave it out by only=[...]")]
    return [
        Finding(
            check.severity,
            check.name,
            result.split,
            result.count,
            result.total,
            result.unit,
            f"{check.what} ({result.more})" if result.more else check.what,
            tuple(result.first),
            check.remedy,
        )
        for result in results
    ]
