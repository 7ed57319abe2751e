"""With how many threads a run computes, and how they wait for one another.

OpenMP's threads meet at a barrier after every operation. One that comes late, since another process has its core, is
waited for by all the others, which by default spin meanwhile and take more time from the one that is late: beside one
busy process two threads on two cores were found ten times slower than one. So a run gets the threads that fit the free
cores, and threads that wait give their core away soon (``python scripts/benchmark.py threads``). No torch: both are
read by the libraries when they are imported.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

# libgomp: after about 50 microseconds, which costs a few per cent where nothing else runs. Intel's library: at once.
GENTLE = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_TOLERATED = 0.25  # of a core: what a machine does beside that is called idle
_WATCHED = 1.0  # seconds
_CGROUPS = Path("/sys/fs/cgroup")
_JIFFIES_IDLE = (3, 4)  # of a line of /proc/stat: idle, and waiting for a disk


@dataclass(frozen=True)
class Machine:
    """What a process finds at a moment.

    Attributes:
        cores: that it may run on.
        busy: how many of them others keep busy.
        quota: cores' worth of time that its container may use; infinite without a limit.
        used: how much of the quota others in the container use.
    """

    cores: int
    busy: float = 0.0
    quota: float = inf
    used: float = 0.0


def threads_that_fit(machine: Machine, processes: int) -> int:
    """Threads of each of several processes at a time: their share of the free cores, at least one."""
    free = min(machine.cores - machine.busy, machine.quota - machine.used)
    return max(1, int((free + _TOLERATED) // processes))


def described(machine: Machine) -> str:
    """The machine for people: ``2 cores, 1.1 of them busy``."""
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    busy = f"{machine.busy:.1f} of them busy with other work" if machine.busy > _TOLERATED else "idle"
    limit = f", limited to {machine.quota:g}" if machine.quota < machine.cores else ""
    used = f" of which others use {machine.used:.1f}" if limit and machine.used > _TOLERATED else ""
    return f"{cores}{limit}{used}, {busy}"


def wait_gently(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait for one another give their core away soon, unless the environment says how they wait."""
    if not {*GENTLE, "OMP_WAIT_POLICY"}.intersection(environment):
        environment.update(GENTLE)


def this_machine() -> Machine:
    """Watch the machine for a second, in which this process does nothing."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota, usage = _cgroup()
    before, start = (_busy_seconds(cores), usage()), time.monotonic()
    time.sleep(_WATCHED)
    after, seconds = (_busy_seconds(cores), usage()), time.monotonic() - start
    busy, used = (max(0.0, (now - then) / seconds) for then, now in zip(before, after, strict=True))
    return Machine(len(cores), min(busy, len(cores)), quota, used)


def _busy_seconds(cores: list[int]) -> float:
    """Seconds of work on these cores since the system began; 0 where it does not say (no Linux)."""
    found = 0
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name.removeprefix("cpu").isdecimal() and int(name.removeprefix("cpu")) in cores:
                jiffies = [int(column) for column in columns[:8]]  # what follows is in the first ones already
                found += sum(jiffies) - sum(jiffies[column] for column in _JIFFIES_IDLE)
    return found / os.sysconf("SC_CLK_TCK") if found else 0.0


def _cgroup() -> tuple[float, Callable[[], float]]:
    """The tightest limit on this process's share of the cores (Linux), and the seconds that its group has used."""
    found: list[tuple[float, Callable[[], float]]] = [(inf, lambda: 0.0)]
    for folder in _folders():
        with contextlib.suppress(OSError, ValueError):  # version 2
            quota, period = (folder / "cpu.max").read_text().split()
            found.append((int(quota) / int(period), partial(_usage, folder / "cpu.stat", 1e6)))
        with contextlib.suppress(OSError, ValueError):  # version 1
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                found.append((int(quota) / int(period), partial(_usage, folder / "cpuacct.usage", 1e9)))
    return min(found, key=lambda limit: limit[0])


def _folders() -> list[Path]:
    """Those of this process's groups and of all above, of both versions; in a container the top is its own."""
    found = {_CGROUPS: None, _CGROUPS / "cpu": None}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            if not kinds or "cpu" in kinds.split(","):
                top = _CGROUPS / "cpu" if kinds else _CGROUPS
                path = top / place.strip("/")
                found.update(dict.fromkeys([path, *(parent for parent in path.parents if parent.is_relative_to(top))]))
    return list(found)


def _usage(file: Path, unit: float) -> float:
    """Seconds, of a file whose last word of the first line is a count of ``unit`` per second."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(file.read_text().splitlines()[0].split()[-1]) / unit
    return 0.0
