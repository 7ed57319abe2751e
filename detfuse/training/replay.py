"""The step at which a run broke: written down when it does, and computed again, slowly, to see where."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.files.archive import read_archive
from detfuse.files.run_files import ANOMALY
from detfuse.structures import Batch, Targets
from detfuse.training.finite import first_broken, not_finite


def dump(folder: Path, detector: nn.Module, batch: Batch, when: str, draws: int) -> None:
    """Write the detector and the batch of a step into a run folder, as plain tensors.

    Args:
        folder: the run folder.
        detector: as it was before the step changed its weights.
        batch: the last of the step.
        when: the step, for people.
        draws: seed of its random draws.
    """
    content = {
        "when": when,
        "draws": draws,
        "detector": detector.state_dict(),
        "batch": [*batch[:-1]],
        "targets": [*batch.targets],
    }
    part = folder / f".{ANOMALY}.{os.getpid()}.part"  # several processes may stop for the same gradient
    with suppress(OSError, RuntimeError):  # a full disk does not hide what the run stops for
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(content, part)
            part.replace(folder / ANOMALY)
        finally:
            part.unlink(missing_ok=True)


def replay(
    folder: Path,
    detector: nn.Module,
    loss: Callable[[Batch], dict[str, Tensor]],
    context: Callable[[], AbstractContextManager[Any]],
) -> Iterator[str]:
    """Compute a step again with every layer watched, forwards and backwards.

    Args:
        folder: the run folder.
        detector: gets the weights of the step.
        loss: of the detector, uncompiled.
        context: in which the run computes, see :class:`detfuse.training.device`.

    Yields:
        What was found, line by line.

    Raises:
        InputError: if nothing was written there, or it does not fit the detector.
    """
    path = folder / ANOMALY
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: the run has not stopped for a number that is not finite")
    content = read_archive(path, legacy=False)
    device = next(detector.parameters()).device
    try:
        targets = Targets(*(column.to(device) for column in content["targets"]))
        batch = Batch._make([*(column.to(device) for column in content["batch"]), targets])
        draws = int(content["draws"])
        detector.load_state_dict(content["detector"])
        yield f"{content['when']}, the last batch of the step: images {batch.image_ids.tolist()}"
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: holds no step of this detector ({' '.join(str(error).split())})") from error
    detector.train()

    def forward() -> dict[str, Tensor]:
        torch.manual_seed(draws)
        with context():
            return loss(batch)

    yield first_broken(detector, forward)
    terms = forward()
    yield "; ".join(f"{name} = {term.item():.6g}" for name, term in terms.items())
    try:
        with warnings.catch_warnings(action="ignore"), torch.autograd.detect_anomaly(check_nan=True):
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        yield f"backwards: {' '.join(str(error).split())}"
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    yield f"gradients that are not finite: {', '.join(not_finite(gradients)) or 'none'}"
