"""Where a run's process is started: the seam at which a cluster's launcher can take the local one's place."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

PARENT = "DETFUSE_PARENT_PID"
"""Environment variable by which a run knows the process that it must not outlive."""

_GRACE = 10.0  # seconds between SIGTERM and SIGKILL


class Handle(Protocol):
    """A started process."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def kill(self) -> None:
        """End it with all its children; returns when it has ended."""
        ...


class Launcher(Protocol):
    """Starts processes, here or elsewhere."""

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Handle:
        """Start ``command`` with ``env`` added to the environment; its output is appended to ``log``.

        Raises:
            OSError: if it cannot be started.
        """
        ...


class LocalLauncher:
    """Starts processes on this machine, each in a process group of its own."""

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Handle:
        """See :class:`Launcher`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                list(command),
                env={**os.environ, PARENT: str(os.getpid()), **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _LocalProcess(process)


class _LocalProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)  # whatever is left of its group, such as data workers
            self._process.wait()

    def _signal(self, number: int) -> None:
        if os.name != "posix":
            self._process.terminate()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def die_with_parent() -> None:
    """End this process when the one that started it ends, however that ends; called by a run at its start (Linux).

    Without it, a run would go on writing into its folder after a ``kill -9`` of the ablation, beside the one that the
    next start puts in its place.
    """
    expected = os.environ.pop(PARENT, None)  # not for this process's own children
    with contextlib.suppress(OSError, AttributeError):  # other systems have no prctl
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if expected is not None and os.getppid() != int(expected):
        raise SystemExit(f"process {expected}, which started this run, has ended")
