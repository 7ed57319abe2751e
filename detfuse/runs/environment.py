"""What a run was made with: written into its folder, and read again. Torch is imported only to look."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import detfuse
from detfuse.errors import UserError
from detfuse.files.plain import read_json
from detfuse.files.run_files import ENVIRONMENT

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    "detfuse",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "hydra-core",
    "hotcoco",
    "pycocotools",
    "numpy",
)


def environment() -> dict[str, str]:
    """Versions, platform and devices as text, in a fixed order; no paths and no host or user names."""
    import torch

    found = {"python": platform.python_version()}
    found.update({package: _version(package) for package in _PACKAGES})
    found["torch"] = torch.__version__  # names the CUDA build too
    found["git_commit"] = _git_commit(Path(detfuse.__file__).resolve().parent.parent)
    found["platform"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    found["device"] = _device()
    found["cpu_count"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    found["threads"] = str(torch.get_num_threads())
    return found


def read_environment(folder: Path) -> dict[str, str] | None:
    """That of a run folder; None if it has none.

    Raises:
        UserError: if it cannot be read.
    """
    file = folder / ENVIRONMENT
    try:
        return {str(key): str(value) for key, value in read_json(file).items()}
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete {folder} to make this run again") from error


def threads_of_runs(folders: Iterable[Path]) -> int | None:
    """With how many threads the first of these runs that tells it was made; None if none does."""
    told = ((read_environment(folder) or {}).get("threads", "") for folder in folders)
    return next((int(number) for number in told if re.fullmatch("[1-9][0-9]{0,3}", number)), None)


def describe_device(used: torch.device) -> str:
    """What a command computes on, for people."""
    import torch

    if used.type == "cuda":
        return torch.cuda.get_device_name(used)
    return f"{used.type}, {torch.get_num_threads()} threads"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return platform.processor() or platform.machine() or "cpu"


def _git_commit(root: Path) -> str:
    """The commit of the checkout at ``root``, with ``-dirty`` where tracked files differ; "none" outside a checkout."""
    if not (root / ".git").exists():
        return "none"  # an installed wheel; the folder above may be another project's checkout
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if commit.returncode:
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
