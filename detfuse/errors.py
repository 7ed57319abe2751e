"""What a user can put right: one base for all of it, which the commands tell as one message, without a traceback.

Every kind is also the built-in exception that a notebook expects (``except ValueError`` sees it). Whatever else is
raised is a bug: the commands show its traceback and say so.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from pathlib import Path


class UserError(Exception):
    """Something that the user can put right; the message says what, where, and how."""

    # Not as a KeyError does, which shows its message in quotes.
    __str__ = Exception.__str__


class InputError(UserError, ValueError):
    """An argument, a setting or the content of a file that is not what it should be."""


def explained(error: Exception) -> UserError | None:
    """What the user can put right about an error that detfuse did not raise itself; None if it is a bug.

    Few are: a path that the system refuses, memory that does not suffice. They are known by what they are, not by where
    they were raised.

    Args:
        error: a :class:`UserError` is its own explanation.
    """
    said = _said_in_worker(error)
    if isinstance(error, UserError):
        return error if said is None else UserError(said)
    if isinstance(error, OSError | EOFError) and _comes_between_processes(error):
        return UserError(f"a process that reads the data ended: {error or type(error).__name__}. {_FEWER_WORKERS}")
    if isinstance(error, OSError):
        return _of_the_system(error)
    text = " ".join((said or str(error)).split())
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__}: {text}" for sign in _NO_MEMORY):
        return UserError(f"out of memory ({type(error).__name__}: {text}): {_LESS_MEMORY}")
    if isinstance(error, RuntimeError) and text.startswith(_DEAD_WORKER):
        return UserError(f"a process that reads the data ended: {text.rstrip('. ')}. {_FEWER_WORKERS}")
    return None


def _comes_between_processes(error: BaseException) -> bool:
    """Whether one broke off that was just handing over what it had read: then torch sees only the connection end."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parts[-2:] == ("multiprocessing", "reductions.py") for frame in frames)


def _said_in_worker(error: Exception) -> str | None:
    """The message of an error that was raised in a data worker, to which torch adds the worker's traceback."""
    if not _IN_WORKER.match(str(error)):
        return None
    *_, message = re.split(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", str(error), flags=re.MULTILINE)
    return message.rstrip()


# torch's, on GPU and CPU; the last of more bytes than 64 bits count
_NO_MEMORY = ("OutOfMemoryError", "can't allocate memory", "not enough memory", "Storage size calculation overflowed")
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")  # torch's
_DEAD_WORKER = "DataLoader worker (pid"  # likewise, of one that was killed
_FEWER_WORKERS = (
    "Most often memory did not suffice (`dmesg` tells), or shared memory (of a container: --shm-size). Fewer "
    "data.loader.num_workers take less of both; with none, an error of the reading itself is shown. A run goes on from "
    "its last checkpoint by resume=true"
)
_LESS_MEMORY = "a smaller data.loader.batch_size, smaller images or trainer.precision=bf16-mixed take less"

# Of the machine, wherever they come from; the others are the user's only where a path of his is meant.
_OF_THE_MACHINE = {
    number
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EPIPE", "EMFILE", "ENFILE", "EIO")
    if (number := getattr(errno, name, None)) is not None
}


def _of_the_system(error: OSError) -> UserError | None:
    path = None if error.filename is None else str(error.filename)
    if error.errno not in _OF_THE_MACHINE and (error.errno is None or path is None or _is_installed(path)):
        return None
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{path}: {reason}" if path is not None else reason)


def _is_installed(path: str) -> bool:
    """Whether a file is part of the installation: no path that a user names."""
    return any(Path(path).is_relative_to(root) for root in (sys.prefix, Path(__file__).parent))
