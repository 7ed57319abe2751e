"""Signals that ask a run to end: it finishes its step, saves, and says where; a job of SLURM is queued again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from types import FrameType

from pytorch_lightning.utilities import rank_zero_only

_ASKING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Stopped(SystemExit):
    """A run ended because a signal asked for it; what it had learnt is saved.

    As an exit it has the code that shells give: 143 for SIGTERM, 130 for SIGINT.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class StopRequest:
    """Notes the first signal that asks the run to end. A second Ctrl-C ends it at once, as it would any program.

    Attributes:
        number: of the signal; 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.number = 0

    def listen(self) -> None:
        """Take the place of the handlers that there are; Lightning puts back those that were there before ``fit``."""
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                signal.signal(number, self._note)

    def leave_at_once(self) -> None:
        """From here on nothing is to be saved: the first signal ends the run where it is."""

        def leave(number: int, frame: FrameType | None) -> None:
            raise Stopped(number)

        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                signal.signal(number, leave)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.number and not getattr(rank_zero_only, "rank", 0):
            told = f"{signal.Signals(number).name}: the run ends after this step, and saves (Ctrl-C: at once)\n"
            os.write(2, told.encode())  # not print: the signal may have come in the middle of another
        self.number = self.number or number


def requeue(environment: Mapping[str, str]) -> str:
    """Queue this job of SLURM again, as SIGUSR1 asks for before its time is up; what came of it, for people.

    Args:
        environment: of the process.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return "no job of SLURM to queue again"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {job} was not queued again: scontrol: {error.strerror}"
    if done.returncode:
        return f"job {job} was not queued again: scontrol: {' '.join(done.stderr.split()) or done.returncode}"
    return f"job {job} is queued again"
