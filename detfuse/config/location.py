"""Where the configuration lies, and what can be chosen in it."""

from __future__ import annotations

from pathlib import Path

from detfuse.errors import UserError


def conf_dir() -> Path:
    """The shipped configuration: inside the package in a wheel, beside it in a checkout.

    Raises:
        UserError: if neither is there, which means that the installation is broken.
    """
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "base.yaml").is_file():
            return candidate
    raise UserError(f"no conf/base.yaml in {package} or beside it: install detfuse again")


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
