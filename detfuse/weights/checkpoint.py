"""Reading a checkpoint of this program: safely, completely, and with an error that helps."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.files.archive import ArchiveError, read_archive
from detfuse.files.plain import require_plain
from detfuse.structures import Categories
from detfuse.words import some

_PREFIX = "detector."
COUNTER = ".num_batches_tracked"
"""End of the names of the numbers of batches that norms have seen."""
_OF_TRAINING = ("loops", "callbacks", "optimizer_states", "lr_schedulers", "global_step")


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names the file, the fault and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """What evaluation and prediction need of a training run.

    Attributes:
        path: the file.
        config: the resolved configuration, plain containers only. It is data: nothing in it has been instantiated.
        categories: the classes the detector predicts.
        detector_state: state dict of the detector; the averaged weights (EMA) where the run kept them.
        epoch: index of the epoch in which it was written, from 0.
        version: version of this program that wrote it.
        is_ema: whether ``detector_state`` holds averaged weights.
    """

    path: Path
    config: dict[str, Any]
    categories: Categories
    detector_state: dict[str, Tensor]
    epoch: int
    version: str
    is_ema: bool


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; only plain data is loaded, and the file's checksums are compared.

    Warns:
        UserWarning: if a newer version of this program wrote it.

    Raises:
        CheckpointError: if there is no such file, it is damaged, holds code, was not written by this program, or holds
            weights that are not finite.
    """
    return _read(Path(path).expanduser())[0]


def read_training(path: Path) -> tuple[Checkpoint, Checkpoint, dict[str, Any]]:
    """Read a checkpoint to go on from.

    Returns:
        What evaluation needs of it; the same with the weights that are trained, where the others are an average; all
        that is in it, as Lightning stores it.

    Raises:
        CheckpointError: see :func:`read_checkpoint`; and if it holds no training to go on with.
    """
    checkpoint, content = _read(path)
    if absent := [key for key in _OF_TRAINING if key not in content]:
        raise CheckpointError(f"{path}: holds weights, but no training to go on with: {', '.join(absent)} is missing")
    return checkpoint, replace(checkpoint, detector_state=_trained(content, path), is_ema=False), content


def _read(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    _require_file(path)
    try:
        content = read_archive(path, legacy=False)
    except ArchiveError as error:
        raise CheckpointError(str(error)) from error
    own = _own_part(content, path)
    version = _field(own, "version", str, path)
    _warn_if_newer(version, path)
    config = _field(own, "config", dict, path)
    try:
        require_plain(config, path, "config")
    except InputError as error:
        raise CheckpointError(str(error)) from error
    averaged = own.get("ema")
    if averaged is None:
        state = _trained(content, path)
    else:
        state = _field(own, "ema", dict, path)
        _require_weights(state, path)
    read = Checkpoint(
        path=path,
        config=config,
        categories=_categories(own, path),
        detector_state=state,
        epoch=_field(content, "epoch", int, path, inside=""),
        version=version,
        is_ema=averaged is not None,
    )
    return read, content


def _trained(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the detector that was trained, whether or not there is an average of them."""
    weights = _field(content, "state_dict", dict, path, inside="")
    state = {key.removeprefix(_PREFIX): value for key, value in weights.items() if _is_own(key)}
    _require_weights(state, path)
    return state


def _require_weights(state: Mapping[str, Any], path: Path) -> None:
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path}: holds no detector weights (keys beginning with {_PREFIX!r} in 'state_dict'); train again"
        )
    _require_dense(state, path)
    _require_finite(state, path)


def load_weights(detector: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's weights into a detector, every one of them.

    How many batches a norm has seen is no weight: it is taken where both have it.

    Raises:
        CheckpointError: naming the weights that are missing, left over, or of another shape.
    """
    own = detector.state_dict()
    state = checkpoint.detector_state
    misfits = {
        key: f"{key} is {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the detector"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    } | {
        key: f"{key} is {state[key].dtype} in the file, {value.dtype} in the detector"
        for key, value in own.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    }
    # what is missing only the parts know: some find their weights under former names too
    loaded = detector.load_state_dict({key: x for key, x in state.items() if key not in misfits}, strict=False)
    missing = [key for key in loaded.missing_keys if key not in misfits and not key.endswith(COUNTER)]
    faults = [f"{key} is not in the file" for key in missing]
    faults += [f"{key} is not in the detector" for key in loaded.unexpected_keys if not key.endswith(COUNTER)]
    faults += misfits.values()
    if faults:
        rest = f"; and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise CheckpointError(
            f"{checkpoint.path}: {len(faults)} of its weights do not fit this detector: {'; '.join(faults[:6])}{rest}. "
            "Build the detector from the checkpoint's own configuration and categories"
        )


def _require_dense(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for weights that are not there number by number, as detectors have theirs."""
    size = path.stat().st_size
    for key, value in state.items():
        whole = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not whole or value.numel() * value.element_size() > size:
            found = f"{tuple(value.shape)} {value.dtype} {value.layout} on {value.device}"
            raise CheckpointError(f"{path}: {key} is no plain tensor within the file ({found}); save plain weights")


def _require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for weights with which nothing would be detected, without a word."""
    broken = {key: int((~value.isfinite()).sum()) for key, value in state.items()}
    broken = {key: count for key, count in broken.items() if count}
    if broken:
        shown = [f"{key} ({count} of {state[key].numel()} numbers)" for key, count in broken.items()]
        rest = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
        raise CheckpointError(
            f"{path}: {len(broken)} of its {len(state)} weights are NaN or infinite: {', '.join(shown[:6])}{rest}. The "
            "training diverged: use an earlier checkpoint, or train again with a lower optimizer.lr, a longer "
            "scheduler.warmup_steps, trainer.gradient_clip_val=10 or trainer.precision=32-true"
        )


def _require_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(str(p.relative_to(path)) for p in path.rglob("*.ckpt") if p.is_file())
        found = f"it holds {some(inside)}; name one of them" if inside else "there is no .ckpt file in it"
        raise CheckpointError(f"{path}: this is a folder, not a checkpoint file; {found}")
    if path.is_file():
        return
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.ckpt")) if folder == path.parent else []
    near = difflib.get_close_matches(path.name, files, n=3, cutoff=0.4) or files
    if files:
        hint = f"{folder} holds {some(near)}"
    elif folder == path.parent:
        hint = f"there is no .ckpt file in {folder}"
    else:
        hint = f"the folder {path.parent} does not exist either; {folder} does"
        beside = difflib.get_close_matches(path.relative_to(folder).parts[0], [p.name for p in folder.iterdir()], n=3)
        hint += f" and holds {some(beside)}" if beside else ""
    raise CheckpointError(f"{path}: no such file; {hint}")


def _own_part(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    own = content.get("detfuse")
    if not isinstance(own, dict):
        raise CheckpointError(
            f"{path}: not a checkpoint of detfuse (which has the key 'detfuse' with version, config and categories); "
            f"this file has {some([str(key) for key in content]) or 'nothing'}. Weights of another program can start a "
            "backbone: backbone.pretrained=<file>"
        )
    return own


def _field(part: Mapping[str, Any], key: str, kind: type, path: Path, inside: str = "detfuse.") -> Any:
    if key not in part:
        raise CheckpointError(f"{path}: the key {inside + key!r} is missing; the file is incomplete, train again")
    value = part[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"{path}: {inside + key!r} should be a {kind.__name__}, but is a {type(value).__name__}")
    return value


def _is_own(key: object) -> bool:
    return isinstance(key, str) and key.startswith(_PREFIX)


def _categories(own: Mapping[str, Any], path: Path) -> Categories:
    plain = _field(own, "categories", dict, path)
    ids, names = plain.get("ids"), plain.get("names")
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"{path}: 'detfuse.categories.ids' should be a list of whole numbers, but is {ids!r}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: 'detfuse.categories.names' should be a list of names, but is {names!r}")
    try:
        return Categories.from_dict(plain)
    except ValueError as error:
        raise CheckpointError(f"{path}: 'detfuse.categories' is malformed: {error}") from error


def _warn_if_newer(written: str, path: Path) -> None:
    installed = installed_version("detfuse")
    if _numbers(written) > _numbers(installed):
        warnings.warn(
            f"{path}: written by detfuse {written}, newer than this one ({installed}); results may differ", stacklevel=3
        )


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal() and len(part) < 10)
