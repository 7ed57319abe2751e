"""Several processes of one run, as copies of the test's own, which has imported all that they need."""

from __future__ import annotations

import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

_SECONDS = 240


def in_processes(count: int, work: Callable[[int], None], folder: Path) -> list[int]:
    """Call ``work(rank)`` in so many processes, with the environment in which Lightning finds each other.

    Args:
        count: of the processes.
        work: what each of them does.
        folder: gets what they print to stderr, as ``rank_0.err`` ...

    Returns:
        Their exit codes, in the order of the ranks; minus the signal's number for one that was killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = [_copy(rank, count, port, work, folder / f"rank_{rank}.err") for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _copy(rank: int, count: int, port: int, work: Callable[[int], None], told: Path) -> int:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # other threads of this process sleep
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(_SECONDS)
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT, 0o644), 2)
        given = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in given.items()}, MASTER_ADDR="127.0.0.1")
        work(rank)
        code = 0
    except BaseException:  # whatever it is, the copy does not go on with the tests
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
