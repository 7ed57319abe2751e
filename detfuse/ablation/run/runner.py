"""Runs the jobs of a plan, each in a process of its own: one that fails, is killed or is out of memory costs no other.

Every run's ``state.json`` says where it stands and how long it took so far, so that the runner may be killed at any
moment and started again: finished runs are kept, the others go on from their last checkpoint or begin again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detfuse.ablation.records import Run, State
from detfuse.ablation.run.launcher import Handle, Launcher
from detfuse.ablation.storage import read_run, write_run
from detfuse.files.plain import read_json
from detfuse.files.records import StorageError
from detfuse.files.run_files import LOG, METRICS, PREDICTIONS, STATE

RESULTS = (METRICS, PREDICTIONS)
_SIGKILL = -9
_SIGKILLED_SHELL = 137  # 128 + SIGKILL, as shells and containers have it
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate|MemoryError")
_OOM_KILLS = Path("/proc/vmstat")
_TAIL_BYTES = 20_000
_REASON_LINES = 3
_HEARTBEAT = 1.0  # seconds of a run's time that a kill of everything may cost


@dataclass(frozen=True)
class Job:
    """One run to be made.

    Attributes:
        arm: its name.
        seed: its seed.
        folder: its run folder, which gets ``log.txt`` and ``state.json``.
        command: what to start.
        shares: the arm whose run of this seed must be finished first, since this one scores its weights; empty if none.
    """

    arm: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    shares: str = ""

    @property
    def waiting(self) -> Run:
        """Its run before it begins."""
        return Run(self.arm, self.seed, self.folder, "waiting", shares=self.shares)


Watch = Callable[[Sequence[Run]], None]
"""Told the state of all runs, again and again while they run."""


@dataclass
class _Active:
    job: Job
    handle: Handle
    slot: int
    begun: float
    seconds_before: float
    log_start: int
    oom_kills: int
    written: float  # when its time was last written down


@dataclass
class Runner:
    """Runs jobs, several at a time.

    Attributes:
        launcher: starts the processes.
        slots: environment of each place for a run, such as its GPU and number of threads; as many runs at a time.
        begin: makes a run folder ready for a process to begin or to go on in it.
        watch: is told what happens.
        pause: seconds between two looks at the processes.
    """

    launcher: Launcher
    slots: Sequence[Mapping[str, str]]
    begin: Callable[[Path], None]
    watch: Watch = lambda runs: None
    pause: float = 0.5
    _runs: dict[Path, Run] = field(default_factory=dict, init=False)

    def run(self, jobs: Sequence[Job]) -> list[Run]:
        """Run all jobs that are not finished; returns every job's run, whatever became of it.

        An interruption (``KeyboardInterrupt``, ``SystemExit``) ends the processes and passes on.
        """
        self._runs = {job.folder: state_of(job) for job in jobs}
        waiting = [job for job in jobs if self._runs[job.folder].state != "finished"]
        for job in waiting:
            self._runs[job.folder] = replace(self._runs[job.folder], state="waiting", reason="")
        self.watch(list(self._runs.values()))
        active: list[_Active] = []
        try:
            while waiting or active:
                active = [entry for entry in active if not self._ended(entry)]
                taken = {entry.slot for entry in active}
                for slot in [i for i in range(len(self.slots)) if i not in taken]:
                    ready = next((job for job in waiting if self._is_ready(job)), None)
                    if ready is not None:
                        waiting.remove(ready)
                        started = self._start(ready, slot)
                        active += [started] if started else []
                self._tell(active)
                if active:
                    time.sleep(self.pause)
        finally:
            for entry in active:
                entry.handle.kill()
        return list(self._runs.values())

    def _tell(self, active: Sequence[_Active]) -> None:
        now = time.monotonic()
        for entry in active:
            run = replace(self._runs[entry.job.folder], seconds=round(entry.seconds_before + now - entry.begun, 1))
            self._runs[entry.job.folder] = run
            if now - entry.written >= _HEARTBEAT:
                write_run(run)
                entry.written = now
        self.watch(list(self._runs.values()))

    def _is_ready(self, job: Job) -> bool:
        """Whether it need not wait for another any more, whatever became of that."""
        trained = self._trained(job)
        return trained is None or trained.state not in ("waiting", "running")

    def _trained(self, job: Job) -> Run | None:
        """The run whose weights a job scores; None if it is trained itself."""
        return self._runs.get(job.waiting.trained_in) if job.shares else None

    def _start(self, job: Job, slot: int) -> _Active | None:
        before = self._runs[job.folder].seconds
        trained = self._trained(job)
        if trained is not None and trained.state != "finished":
            self._set(job, "failed", f"it shares the training of {job.shares}, which is {trained.state}", before)
            return None
        log = job.folder / LOG
        try:
            self.begin(job.folder)
            log_start = log.stat().st_size if log.is_file() else 0
            self._set(job, "running", "", before)
            handle = self.launcher.start(job.command, self.slots[slot], log)
        except OSError as error:
            self._set(job, "failed", f"could not be started: {error}", before)
            return None
        now = time.monotonic()
        return _Active(job, handle, slot, now, before, log_start, _oom_kills(), now)

    def _ended(self, entry: _Active) -> bool:
        code = entry.handle.poll()
        if code is None:
            return False
        state, reason = _outcome(code, entry)
        self._set(entry.job, state, reason, entry.seconds_before + time.monotonic() - entry.begun)
        return True

    def _set(self, job: Job, state: State, reason: str, seconds: float) -> None:
        run = replace(job.waiting, state=state, reason=reason, seconds=round(seconds, 1))
        self._runs[job.folder] = run
        write_run(run)


def state_of(job: Job) -> Run:
    """Where a job stands, from its folder.

    A run that a killed runner left as running waits again; one is finished only with all its results.

    Raises:
        StorageError: if the folder holds another job's run.
    """
    try:
        run = read_run(job.folder)
    except StorageError:
        return job.waiting
    if (run.arm, run.seed) != (job.arm, job.seed):
        raise StorageError(
            f"{job.folder} holds the run of arm {run.arm}, seed {run.seed}, by its {STATE}, but stands where that of "
            f"arm {job.arm}, seed {job.seed}, belongs: move it back, or delete it and start again"
        )
    complete = all((job.folder / name).is_file() for name in RESULTS)
    if run.state == "running" or (run.state == "finished" and not complete):
        return replace(run, state="waiting", reason="")
    return run


def score_of(run: Run) -> float | None:
    """Score of a finished run, mAP as a fraction; None where it is undefined or the run has no result."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content: Any = read_json(run.folder / METRICS)
        value = float(content["stats"]["mAP"])
        return value if value >= 0 else None
    return None


def _outcome(code: int, entry: _Active) -> tuple[State, str]:
    missing = [name for name in RESULTS if not (entry.job.folder / name).is_file()]
    if code == 0 and not missing:
        return "finished", ""
    lines = list(_last_lines(entry.job.folder / LOG, entry.log_start))
    reason = " | ".join(lines[-_REASON_LINES:])
    if any(_OUT_OF_MEMORY.search(line) for line in lines):
        memory = next(line for line in reversed(lines) if _OUT_OF_MEMORY.search(line))
        return "out of memory", memory
    if code in (_SIGKILL, _SIGKILLED_SHELL):
        if _oom_kills() > entry.oom_kills:
            return "out of memory", "the system was out of memory and killed it; a smaller batch or fewer jobs help"
        return "killed", "killed by signal 9: by somebody, or by a limit on memory or time"
    if code < 0:
        return "killed", f"killed by signal {-code}" + (f" after: {reason}" if reason else "")
    if code == 0:
        return "failed", f"it ended without {' and '.join(missing)}" + (f" after: {reason}" if reason else "")
    return "failed", reason or f"exit code {code}, and nothing in {LOG}"


def _last_lines(log: Path, start: int) -> Iterator[str]:
    """The lines that this process wrote last; of a traceback only the error is worth a person's time."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, 2)
        in_traceback = file.seek(max(start, size - _TAIL_BYTES)) > start
        for line in file.read().decode("utf-8", errors="replace").splitlines():
            in_traceback = line.startswith("Traceback") or (in_traceback and line.startswith(" "))
            if line.strip() and not in_traceback and not line.startswith("Set the environment variable HYDRA_FULL"):
                yield line.strip()


def _oom_kills() -> int:
    """How often Linux has killed a process for memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", _OOM_KILLS.read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
