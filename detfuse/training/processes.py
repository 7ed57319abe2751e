"""The processes of a run: when one of them dies, the others say which one, and end.

Lightning kills them without a word, and only where it has started them itself. Elsewhere, such as under torchrun or
SLURM, they fail in the words of their transport (gloo), or wait until its time is up (NCCL: half an hour).
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from detfuse.errors import UserError

PATIENCE = 10.0
"""Seconds that a process has to end by itself, once another has died: it may be at its own end, or about to say why."""

_FIRST_PROCESS = "DETFUSE_FIRST_PROCESS"  # its pid, for those that it starts
_CAN_WATCH = hasattr(os, "pidfd_open")  # Linux
_POLL = 200  # milliseconds
_EXIT = 1  # of a command that failed for what a user can put right
_OF_A_CONNECTION = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


class LostProcessError(UserError):
    """A process of the run has died, or cannot be reached any more; the others cannot go on without it."""


class Companions(pl.Callback):
    """Watches the other processes of the run on this machine, from their start to the end of what they do together.

    A process that waits for one that is dead may do so in the middle of a kernel; so a thread watches, and ends the
    process if it has not ended by itself. What happens on other machines shows as a lost connection.

    Attributes:
        patience: seconds, see :data:`PATIENCE`.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._ranks: dict[int, int] = {}  # by file descriptor, which can be read once the process has ended
        self._pids: dict[int, int] = {}
        self._size = 1
        self._resumable = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make each other's acquaintance."""
        self._resumable = stage == "fit"
        self.meet()

    def meet(self) -> None:
        """Watch all processes of the process group that are on this machine; every one of them has to call it."""
        if not _CAN_WATCH:
            return
        here = (_machine(), os.getpid())
        everyone: list[Any] = [here] * dist.get_world_size()
        dist.all_gather_object(everyone, here)
        self.watch({rank: pid for rank, (machine, pid) in enumerate(everyone) if machine == here[0]}, len(everyone))

    def watch(self, pids: Mapping[int, int], size: int) -> None:
        """Watch some more.

        Args:
            pids: by rank; this process itself, and those that are watched already, may be among them.
            size: number of all processes.

        Raises:
            LostProcessError: if one has ended already.
        """
        self._size = size
        for rank, pid in pids.items() if _CAN_WATCH else ():
            if pid == os.getpid() or rank in self._pids:
                continue
            try:
                self._ranks[os.pidfd_open(pid)] = rank
                self._pids[rank] = pid
            except ProcessLookupError:
                raise LostProcessError(f"rank {rank} (pid {pid}) {_UNKNOWN}. {self._end}") from None
            except OSError:  # a kernel without such descriptors: connections that break are told all the same
                return

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What the processes do together.

        Raises:
            LostProcessError: in place of the error of a connection to another process.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._wait_for_a_death, args=(done,), daemon=True, name="companions")
        thread.start()
        try:
            yield
        except RuntimeError as error:
            if not _is_of_connection(error):
                raise
            raise self._lost(error) from error
        finally:
            done.set()
            thread.join()
            for descriptor in self._ranks:
                os.close(descriptor)
            self._ranks, self._pids = {}, {}

    def _wait_for_a_death(self, done: threading.Event) -> None:
        while not done.is_set():
            dead = self._dead(_POLL)
            if dead and not done.wait(self.patience):
                os.write(2, f"error: {self._told(dead)}\n".encode())
                os._exit(_EXIT)  # the main thread may wait for ever

    def _dead(self, milliseconds: int) -> dict[int, int]:
        """Rank and file descriptor of those that have ended; waits so long for the first."""
        poll = select.poll()
        ranks = dict(self._ranks)
        for descriptor in ranks:
            poll.register(descriptor, select.POLLIN)
        return {ranks[descriptor]: descriptor for descriptor, _ in poll.poll(milliseconds)}

    def _lost(self, error: Exception) -> LostProcessError:
        until = time.monotonic() + self.patience / 2  # its connections end a little before a process does
        while time.monotonic() < until:
            if dead := self._dead(_POLL):
                return LostProcessError(self._told(dead))
        return LostProcessError(
            f"the connection to another process was lost, or it has not answered for too long ({_first_line(error)}): "
            f"what it said itself, on whatever machine, tells more. {self._end}"
        )

    def _told(self, dead: Mapping[int, int]) -> str:
        how = [f"rank {rank} (pid {self._pids[rank]}) {_how(descriptor)}" for rank, descriptor in sorted(dead.items())]
        return f"{'; '.join(how)}. {self._end}"

    @property
    def _end(self) -> str:
        resume = ". A run goes on from its last checkpoint by resume=true" if self._resumable else ""
        return f"The {self._size} processes cannot go on without each other{resume}"


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher with :class:`Companions` in the place of its observer, which kills without a word.

    Args:
        launcher: Lightning's.
        companions: of this process.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher, companions: Companions) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.companions = companions

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes of this machine, unless something else does, and call the function."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            os.environ[_FIRST_PROCESS] = str(os.getpid())
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        with self.companions.watched():
            self.companions.watch(self._started(), self.num_processes * self.num_nodes)
            return function(*args, **kwargs)

    def _started(self) -> dict[int, int]:
        """Pids of those whose start shows, by rank: so a death before the first connection is noticed too."""
        first = self.cluster_environment.node_rank() * self.num_processes
        started = {first + 1 + number: process.pid for number, process in enumerate(self.procs)}
        if self.cluster_environment.local_rank() and _FIRST_PROCESS in os.environ:
            started[first] = int(os.environ[_FIRST_PROCESS])
        return started


def watch_companions(trainer: pl.Trainer) -> None:
    """Let a trainer of several processes notice the death of one; nothing changes for a single one."""
    launcher = trainer.strategy.launcher
    if trainer.world_size > 1 and isinstance(launcher, _SubprocessScriptLauncher):
        companions = Companions()
        trainer.callbacks.insert(0, companions)  # type: ignore[attr-defined]  # Lightning sets it dynamically
        trainer.strategy._launcher = WatchedLauncher(launcher, companions)


def _machine() -> str:
    """Equal for processes that see each other by pid."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text()}{Path('/proc/self/ns/pid').readlink()}"


_MEMORY = "most often memory did not suffice (`dmesg` tells), of which a smaller data.loader.batch_size takes less"
_UNKNOWN = f"has ended: if it did not say why itself, it was killed, and {_MEMORY}"


def _how(descriptor: int) -> str:
    """How a process ended, as far as this one may know: the system tells its parent alone."""
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        status = None
    if status is None:
        return _UNKNOWN
    if status.si_code == os.CLD_EXITED:
        return f"has ended with exit code {status.si_status}, and said why itself"
    killed = f"was killed by {signal.Signals(status.si_status).name}"
    return f"{killed}: {_MEMORY}" if status.si_status == signal.SIGKILL else killed


def _is_of_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(sign in text for sign in _OF_A_CONNECTION)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". This is typically")[0]
