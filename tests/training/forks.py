"""Several processes of one run, as copies of one that has imported all that they need.

Not of the test's own: pools of threads, such as hotcoco's, do not live on in a copy, and whoever needs them waits for
ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import torch

_SECONDS = 240
# Of what is installed: before Python 3.12.8 a module that lies beside the tests is not found, and nobody is told of it.
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(["detfuse.build", "detfuse.training.trainer", "torch._dynamo"])


def in_processes(count: int, work: Callable[[int], None], folder: Path) -> list[int]:
    """Call ``work(rank)`` in so many processes, with the environment in which Lightning finds each other.

    Args:
        count: of the processes.
        work: what each of them does; a function of a module, or a part of one.
        folder: gets what they print to stderr, as ``rank_0.err`` ...

    Returns:
        Their exit codes, in the order of the ranks; minus the signal's number for one that was killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    copies = [
        _COPIES.Process(target=_copy, args=(rank, count, port, work, folder / f"rank_{rank}.err"))
        for rank in range(count)
    ]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    return [copy.exitcode or 0 for copy in copies]


def _copy(rank: int, count: int, port: int, work: Callable[[int], None], told: Path) -> None:
    signal.alarm(_SECONDS)
    torch.set_num_threads(1)  # as in the tests' own processes
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT, 0o644), 2)
    given = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items()}, MASTER_ADDR="127.0.0.1")
    work(rank)
