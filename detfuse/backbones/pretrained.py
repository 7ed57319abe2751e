"""Pretrained weights: from a local file, or by the library's name with a quick answer where there is no network."""

from __future__ import annotations

import difflib
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from detfuse.backbones.efficientnet_names import as_timm
from detfuse.errors import InputError, UserError
from detfuse.files.archive import read_archive
from detfuse.files.endings import common_prefix
from detfuse.structures import Normalization, Pretrained

_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_RAW = ("state_dict", "model", "model_state_dict")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_REMEDY = "give pretrained=<file.pth or .safetensors> with weights from disk, or pretrained=false for random weights"


class NoNetworkError(UserError, ConnectionError):
    """Weights that would have to be fetched, and no network to fetch them from."""


def is_file(pretrained: bool | str) -> bool:
    """Whether the setting means a local file (by its suffix, or because such a file exists)."""
    return isinstance(pretrained, str) and (pretrained.endswith(_FILE_SUFFIXES) or Path(pretrained).is_file())


def require_reachable(url: str, model: str, timeout: float = 4.0) -> None:
    """Ask the host for an answer before a library tries for most of a minute; a proxy in the environment is used.

    Raises:
        NoNetworkError: if there is none within ``timeout`` seconds.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return
    except urllib.error.HTTPError:
        return  # an answer, if not a friendly one: the download itself will say what is wrong
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # the libraries bring certificates of their own
        raise no_network(model, url, error) from error


def no_network(model: str, url: str, reason: object) -> NoNetworkError:
    """The error for weights that cannot be fetched."""
    return NoNetworkError(
        f"backbone {model}: its pretrained weights are not in the cache and {url} cannot be reached ({reason}); "
        f"{_REMEDY}"
    )


def everything(model: nn.Module, source: str, normalization: Normalization) -> Pretrained:
    """The report on a model that a library built with its weights."""
    return Pretrained(source, normalization, frozenset(name for name, _ in model.named_parameters()))


def load_file(
    target: nn.Module, path: str, model: str, known: Iterable[str], normalization: Normalization, *, ema: bool = True
) -> Pretrained:
    """Load backbone weights from a file in the library's own naming.

    ``state_dict``, ``model`` and the like around the weights are unwrapped, a prefix that they share is found by how
    they end and stripped, and a checkpoint of this program serves too. What was chosen and stripped is told. Weights of
    the full model that the backbone does not have (the classifier, deeper stages) are ignored; others that are missing
    or left over give one warning.

    Args:
        target: the backbone, changed in place.
        path: ``.safetensors``, or anything else that ``torch.load(weights_only=True)`` reads.
        model: the model's name, for messages.
        known: names of the full model's parameters and buffers.
        normalization: of the images that the weights expect, if the file does not say it: this program's checkpoints
            do, and so does any file with ``mean`` and ``std`` (three numbers each) beside its ``state_dict``.
        ema: of a file with averaged weights and raw ones, take the averaged.

    Returns:
        What was read, by its names in ``target`` (buffers too).

    Raises:
        ValueError: if the file is missing, unreadable, fits nowhere, or has a weight of another shape.
    """
    where = f"backbone {model}: pretrained={path}"
    file = _existing(Path(path).expanduser(), where)
    content = _read(file, where)
    state, told = chosen(content, ema)
    wanted = {_canonical(key): key for key in target.state_dict()}
    names = list(known)
    full = {_canonical(key) for key in names}
    weights = as_timm(_tensors(state, where), names)
    try:
        prefix = common_prefix(weights, lambda name: _canonical(name) in wanted)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    weights = _strip(weights, prefix)
    if prefix:
        told.append(f"without the prefix {prefix!r} of its names")

    own = target.state_dict()
    loaded: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, value in weights.items():
        name = wanted.get(_canonical(key))
        if name is None:
            continue
        if value.shape != own[name].shape:
            wrong.append(f"{key} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}")
        loaded[name] = value
    if not loaded:
        raise InputError(
            f"{where}: none of its {len(weights)} weights belongs to this model. The file has {_few(weights)}; the "
            f"model has {_few(wanted.values())}; check the model's name, or rename the weights as the library does"
        )
    if wrong:
        raise InputError(f"{where}: {len(wrong)} weights of another shape: {_few(wrong)}; check the model's name")
    learnt = {key for key, _ in target.named_parameters()} | {key for key in own if "running_" in key}
    missing = sorted(learnt - set(loaded))
    extra = sorted(key for key in weights if _canonical(key) not in wanted and _canonical(key) not in full)
    target.load_state_dict(loaded, strict=False)
    if missing or extra:
        warnings.warn(
            f"{where}: {len(loaded)} weights loaded; {len(missing)} of the model are not in the file and stay random "
            f"({_few(missing)}); {len(extra)} of the file are not in the model ({_few(extra)})",
            stacklevel=2,
        )
    source = f"{file} ({', '.join(told)})" if told else str(file)
    return Pretrained(source, _normalization(content) or normalization, frozenset(loaded))


def chosen(content: Any, ema: bool) -> tuple[Any, list[str]]:
    """Of a file with averaged weights and raw ones the ones asked for, and what to tell of it."""
    if not isinstance(content, Mapping):
        return content, []
    own = content.get("detfuse")
    ours = own.get("ema") if isinstance(own, Mapping) else None  # this program's checkpoints
    averaged = [*(content.get(key) for key in _AVERAGED), ours]
    averaged = [each for each in averaged if isinstance(each, Mapping) and each]
    raw = [content[key] for key in _RAW if isinstance(content.get(key), Mapping)]
    if not averaged:
        return content, []
    if not raw or ema:
        return averaged[0], ["its averaged weights, not its raw ones"] if raw else []
    return raw[0], ["its raw weights, not its averaged ones"]


def _normalization(content: Any) -> Normalization | None:
    """What the file says of its images; None if nothing."""
    try:
        told = content["detfuse"]["config"]["detector"]
    except (KeyError, TypeError):
        told = content
    numbers = [told.get(key) for key in Normalization._fields] if isinstance(told, Mapping) else [None]
    return Normalization.of(*numbers) if all(map(_three_numbers, numbers)) else None


def _three_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(v, int | float) for v in values)


def _existing(file: Path, where: str) -> Path:
    if file.is_file():
        return file
    if file.is_dir():
        raise InputError(f"{where}: this is a folder; name one weights file in it")
    beside = sorted(p.name for p in file.parent.glob("*") if p.is_file()) if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, beside, n=3) or [n for n in beside if n.endswith(_FILE_SUFFIXES)][:5]
    hint = f"; beside it are {', '.join(near)}" if near else ""
    raise InputError(f"{where}: no such file{hint}")


def _read(file: Path, where: str) -> Any:
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{where}: not readable as safetensors ({error}); take another copy") from error
    return read_archive(file, legacy=True)


def _tensors(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in the file, whatever is wrapped around it."""
    for _ in range(3):
        inner = (
            next((content[key] for key in (*_RAW, *_AVERAGED) if isinstance(content.get(key), Mapping)), None)
            if (isinstance(content, Mapping))
            else None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: holds a {type(content).__name__}, not a dict of weights")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{where}: holds no weights, only the keys {_few(content)}")
    return weights


def _strip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _canonical(key: str) -> str:
    """One name for ``stages.0.x``, timm's flattened ``stages_0.x`` and its wrapped ``model.stages.0.x``."""
    for wrapper in ("model.", "body."):
        key = key.removeprefix(wrapper)
    return key.replace(".", "_")


def _few(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:4]) + (f", ... ({len(shown)} in all)" if len(shown) > 4 else "") if shown else "none"
