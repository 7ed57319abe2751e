"""What may be wrong with image files, one by one."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from detfuse.data.doctor.case import SHOWN, Case, Found, images_at
from detfuse.data.layout.files import PICTURES


def unusable(case: Case) -> Iterator[Found]:
    """Files that training would refuse, at the start or in the middle."""
    for split, index in case.indexes.items():
        positions = case.looks[split].where(lambda look: look.problem is not None)
        first = [case.looks[split].each[position].problem or "" for position in positions[:SHOWN].tolist()]
        yield Found(split, len(positions), len(index), "images", first)


def flat(case: Case) -> Iterator[Found]:
    """Images of a single colour."""
    for split, index in case.indexes.items():
        positions = case.looks[split].where(lambda look: look.flat)
        yield Found(split, len(positions), len(index), "images", images_at(index, positions))


def turned(case: Case) -> Iterator[Found]:
    """Images that viewers turn, and training does not."""
    for split, index in case.indexes.items():
        positions = case.looks[split].where(lambda look: look.orientation > 1)
        yield Found(split, len(positions), len(index), "images", images_at(index, positions))


def modes(case: Case) -> Iterator[Found]:
    """Images that are stored in another way than most."""
    counts = Counter(look.mode for looks in case.looks.values() for look in looks.each if look.problem is None)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    more = ", ".join(f"{count:,} {mode}" for mode, count in counts.most_common())
    for split, index in case.indexes.items():
        positions = case.looks[split].where(lambda look: look.problem is None and look.mode != usual)
        yield Found(split, len(positions), len(index), "images", images_at(index, positions), more)


def alike_names(case: Case) -> Iterator[Found]:
    """Files whose names differ in case only: on some systems they are one file."""
    for split, index in case.indexes.items():
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for name in index.file_names:
            groups[name.casefold()].add(name)
        same = [" = ".join(sorted(names)) for names in groups.values() if len(names) > 1]
        yield Found(split, len(same), len(index), "images", same[:SHOWN])


def without_record(case: Case) -> Iterator[Found]:
    """Image files in the image folders that no record of any split names."""
    used = {os.path.normpath(index.root / name) for index in case.indexes.values() for name in index.file_names}
    folders = {  # those where the images are, not all below the root: other splits and copies may lie there
        os.path.normpath((index.root / name).parent): split
        for split, index in reversed(list(case.indexes.items()))
        for name in index.file_names
    }
    found: defaultdict[str, list[str]] = defaultdict(list)
    totals: Counter[str] = Counter()
    for folder, split in sorted(folders.items()):
        for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            if path.suffix.lower() in PICTURES and not path.name.startswith("."):
                totals[split] += 1
                if str(path) not in used:
                    found[split].append(path.name)
    for owner, names in found.items():
        yield Found(f"{owner}'s folder", len(names), totals[owner], "files", names[:SHOWN])
