"""What can be chosen in a configuration folder."""

from __future__ import annotations

from pathlib import Path


def group_options(directories: list[Path]) -> dict[str, list[str]]:
    """Every group (a folder) with its options (its YAML files), sorted by name; ``_name`` is a part of other files.

    Args:
        directories: the shipped configuration first, then the user's.
    """
    groups: dict[str, set[str]] = {}
    for directory in directories:
        for file in directory.glob("*/**/*.yaml"):
            group = file.parent.relative_to(directory).as_posix()
            if group.split("/")[0] != "hydra" and not file.stem.startswith("_"):
                groups.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}


def collisions(shipped: Path, user: Path) -> list[str]:
    """Files of the user's configuration that a shipped file of the same name would hide."""
    files = (file.relative_to(user) for file in user.rglob("*.yaml"))
    return sorted(file.as_posix() for file in files if (shipped / file).is_file())
