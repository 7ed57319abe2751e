"""Where the shipped configuration lies."""

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
