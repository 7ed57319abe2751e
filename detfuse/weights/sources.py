"""A detector's weights from anywhere: a library's published ones, a file in its names, or a run of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from detfuse.backbones.pretrained import NoNetworkError, chosen, require_reachable
from detfuse.errors import InputError
from detfuse.files.archive import ArchiveError, digest_of, read_archive
from detfuse.files.endings import common_prefix
from detfuse.files.run_files import BEST, CONFIG, LAST
from detfuse.structures import Categories, Normalization
from detfuse.weights.checkpoint import Checkpoint, read_checkpoint
from detfuse.weights.effdet import EFFDET
from detfuse.weights.published import Published
from detfuse.weights.torchvision import PUBLISHED
from detfuse.words import some

LIBRARIES: Mapping[str, Mapping[str, Published]] = {"torchvision": PUBLISHED, "effdet": EFFDET}
"""Name -> its detectors by theirs, which are those of their recipes."""
ALL: Mapping[str, Published] = {model: each for models in LIBRARIES.values() for model, each in models.items()}
"""The detectors of all of them."""
_WRAPPERS = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class Source:
    """Weights of a whole detector.

    Attributes:
        name: for people.
        path: of the file.
        state: under our names.
        categories: its classes; None if the file does not say.
        num_classes: how many there are.
        normalization: of its images; None if nobody says.
        model: its library's name of it; None for one of ours.
        notes: what was done to the names and numbers, for people.
    """

    name: str
    path: Path
    state: dict[str, Tensor]
    categories: Categories | None
    num_classes: int
    normalization: Normalization | None
    model: str | None
    notes: tuple[str, ...] = ()


def read_source(given: str, recipe: str | None) -> Source:
    """Read a detector's weights.

    Args:
        given: a library (``torchvision``, ``effdet``), ``torchvision:NAME``, a weights file, a checkpoint, or a run
            folder.
        recipe: name of the experiment chosen, which says which detector of a library; None if none is.

    Raises:
        InputError: if there is no such thing, it cannot be read, or its names are not those of a known detector.
        NoNetworkError: naming the file to fetch, if there is no network.
    """
    library, _, model = given.partition(":")
    if library in LIBRARIES and not Path(given).exists():
        return _of_library(_model(library, model or recipe, given))
    path = _file(Path(given).expanduser())
    if path.suffix == ".ckpt" and _is_ours(path):
        return _of_checkpoint(read_checkpoint(path))
    published = next((each for each in ALL.values() if each.file_name == path.name), None)
    return _of_file(path, published, recipe)


def _model(library: str, name: str | None, given: str) -> Published:
    models = LIBRARIES[library]
    if name in models:
        return models[str(name)]
    what = f"experiment={name} is no recipe of its" if name and name != "none" else "this does not say which of its"
    raise InputError(
        f"{given}: {what} detectors; choose one by experiment=, or write {library}:NAME, with one of "
        f"{', '.join(models)}"
    )


def _of_library(published: Published) -> Source:
    library, url = published.library, published.url
    if url is None:
        others = [model for model, each in LIBRARIES[library].items() if each.url]
        raise InputError(f"{library} publishes no weights of {published.model}; it does of {', '.join(others)}")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if not file.is_file():
        try:
            require_reachable(url, published.model)
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=_hash(file))
        except OSError as error:  # NoNetworkError too
            raise NoNetworkError(
                f"{library}'s weights of {published.model} are not on this machine and cannot be fetched. Fetch "
                f"{url} elsewhere and put it at {file}, or give the file: weights=path/to/{file.name}"
            ) from error
    if not digest_of(file).startswith(_hash(file)):
        raise InputError(f"{file}: the file is damaged (its SHA-256 does not begin with {_hash(file)}): fetch it again")
    return _of_file(file, published, published.model)


def _hash(file: Path) -> str:
    """The beginning of a file's SHA-256, which its name ends in."""
    return file.stem.rpartition("-")[2]


def _file(path: Path) -> Path:
    """The file itself, or the checkpoint of a run folder: the best, else the last."""
    if path.is_dir() and (path / CONFIG).is_file():
        found = next((path / file for file in (BEST, LAST) if (path / file).is_file()), None)
        if found is None:
            raise InputError(f"{path}: this run has no checkpoint yet")
        return found
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, but no run folder; name a weights file or a checkpoint in it")
    beside = sorted(p.name for p in path.parent.glob("*") if p.is_file()) if path.parent.is_dir() else []
    hint = f"; beside it are {some(beside)}" if beside else ""
    raise InputError(f"{path}: no such file{hint}")


def _is_ours(path: Path) -> bool:
    """Whether a ``.ckpt`` is a checkpoint of this program; one that cannot be read is told as such."""
    try:
        content = read_archive(path, legacy=False)
    except ArchiveError:
        return True
    return not isinstance(content, Mapping) or "detfuse" in content or "pytorch-lightning_version" in content


def _of_checkpoint(checkpoint: Checkpoint) -> Source:
    told = checkpoint.config.get("detector", {})
    numbers = [told.get(name) for name in Normalization._fields]
    averaged = " (its averaged weights)" if checkpoint.is_ema else ""
    return Source(
        name=f"{checkpoint.path}{averaged}",
        path=checkpoint.path,
        state=checkpoint.detector_state,
        categories=checkpoint.categories,
        num_classes=len(checkpoint.categories),
        normalization=Normalization.of(*numbers) if all(numbers) else None,
        model=None,
    )


def _of_file(path: Path, published: Published | None, recipe: str | None) -> Source:
    """Weights in a library's names."""
    content, told = chosen(_read(path), ema=True)
    weights = _weights(content, path)
    known, state, notes = _recognised(weights, published or ALL.get(recipe or ""), path)
    state, done = known.settled(state, published=published is not None)
    count = _num_classes(state, known)
    return Source(
        name=f"{known.library}'s {known.model} ({path})",
        path=path,
        state=state,
        categories=known.categories if count == len(known.categories) else None,
        num_classes=count,
        normalization=known.normalization,
        model=known.model,
        notes=(*told, *notes, *done),
    )


def _read(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return read_archive(path, legacy=True)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); take another copy") from error


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and (
        inner := next((w for w in _WRAPPERS if isinstance(content.get(w), Mapping)), "")
    ):
        content = content[inner]
    found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        raise InputError(f"{path}: holds no weights, but a {type(content).__name__}")
    broken = [key for key, value in found.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"{path}: {len(broken)} of its weights are NaN or infinite: {some(broken)}")
    return found


def _recognised(
    weights: dict[str, Tensor], hint: Published | None, path: Path
) -> tuple[Published, dict[str, Tensor], list[str]]:
    """Which detector it is: the one whose table knows all names. The file's own and the recipe's are tried first."""
    ordered = [*([hint] if hint else []), *ALL.values()]
    best: tuple[int, Published, list[str]] | None = None
    for each in ordered:
        prefix = common_prefix(weights, each.table.knows)
        state, unknown = each.table.to_ours({key.removeprefix(prefix): value for key, value in weights.items()})
        if not unknown:
            return each, state, [f"the prefix {prefix!r} of its names was stripped"] * bool(prefix)
        if best is None or len(unknown) < best[0]:
            best = (len(unknown), each, unknown)
    assert best is not None
    count, nearest, unknown = best
    raise InputError(
        f"{path}: its {len(weights)} weights are of none of the published detectors that are known here; nearest "
        f"is {nearest.model}, which has no {some(unknown)} ({count} in all). A backbone's weights are given by "
        "backbone.pretrained=<file>, a run of detfuse by its .ckpt"
    )


def _num_classes(state: Mapping[str, Tensor], published: Published) -> int:
    """Without the background of a softmax."""
    rows = next(
        len(value)
        for key, value in state.items()
        if key.startswith("head.cls_logits.") and "bias" in key and _last(key, state)
    )
    if published.model.startswith("fasterrcnn"):
        return rows - 1
    first = "head.box_distances." if published.model.startswith("fcos") else "head.box_deltas."
    boxes = (
        next(len(v) for key, v in state.items() if key.startswith(first) and "bias" in key and _last(key, state)) // 4
    )
    return rows // boxes - published.background


def _last(key: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a bias is a predictor's own, and not that of a norm before it."""
    return not any(f"{key.removesuffix('bias')}{kind}" in state for kind in ("running_mean",))
