"""What every backbone shares: unused parts removed, stages frozen, the promise of ``out_spec`` kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import Sites, inserts_of
from detfuse.backbones.norms import Norm, convert_norms
from detfuse.errors import InputError
from detfuse.structures import FeatureSpec, Pretrained


class Extractor(nn.Module):
    """A feature extractor with frozen stages, and a check that it yields what it promises.

    Subclasses set ``self.model``, implement :meth:`forward` and call :meth:`_finish` at the end of their constructor,
    and :meth:`_check_attention` if they put attention in after that.

    Attributes:
        pretrained: what was read; None from scratch.
        map_strides: true strides of the maps, where they are not the nominal ones.
    """

    model: nn.Module
    out_spec: FeatureSpec
    pretrained: Pretrained | None = None
    map_strides: tuple[int, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._frozen: tuple[str, ...] = ()  # names, not modules: a deep copy (EMA) must freeze its own

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised float images (B, 3, H, W) to one map (B, C_l, H / 2**l, W / 2**l) per level, finest first."""
        raise NotImplementedError(f"{type(self).__name__} has no forward of its own")

    def train(self, mode: bool = True) -> Extractor:
        """Switch the mode; frozen stages stay in evaluation mode (norm statistics, dropout, drop path).

        Attention in them follows the mode: it is no part of what is frozen.
        """
        super().train(mode)
        for name in self._frozen:
            stage = self.get_submodule(name).eval()
            for insert in inserts_of(stage).values():
                insert.train(mode)
        return self

    def _finish(self, name: str, frozen: Iterable[str], norm: Norm, read: Pretrained | None = None) -> None:
        """Remove what no output depends on, convert norms, freeze parameters, compare the outputs with ``out_spec``.

        Args:
            name: the model's name, for messages.
            frozen: names of the parameters of ``self.model`` that must not learn.
            norm: see :data:`~detfuse.backbones.norms.Norm`.
            read: what of ``self.model`` was read, by its names in it; None from scratch.
        """
        features = self._dummy_forward(name)
        self._drop_unused(name, features)
        frozen = set(frozen)
        for key, parameter in self.model.named_parameters():
            if key in frozen:
                parameter.requires_grad_(False)
        # Only now: the names of frozen modules must be those after the conversion, which replaces modules.
        self.model = convert_norms(self.model, norm)
        self._frozen = tuple(f"model.{key}" for key in _frozen_modules(self.model, frozen))
        if read is not None:
            kept = {key for key, _ in self.model.named_parameters()} & read.parameters
            self.pretrained = replace(read, parameters=frozenset(f"model.{key}" for key in kept))
        self.train(self.training)

    def _check_attention(self, name: str, attention: Sites) -> None:
        """See that the maps kept their shapes.

        Raises:
            ValueError: if what passes one of the places does not have the stage's shape.
        """
        try:
            self._dummy_forward(name)
        except (ValueError, AttributeError) as error:  # the latter where a block passes lists on, as DenseNet's
            sites = ", ".join(f"attention.{site}" for site in attention)
            raise InputError(f"{sites}: the stages of this model cannot take attention there ({error})") from error

    def _drop_unused(self, name: str, features: list[Tensor]) -> None:
        """Remove the modules that reach no output; where the model cannot run without them, stop their learning.

        Deeper stages that nobody asked for would cost time and memory, and DistributedDataParallel fails on parameters
        without a gradient.
        """
        used = behind(features)
        unused = unused_modules(self.model, used)
        kept = {path: self.model.get_submodule(path) for path in unused}
        for path in unused:
            self.model.set_submodule(path, nn.Identity())
        try:
            same = not unused or all(map(_equal, self._dummy_forward(name), features))
        except InputError:
            same = False  # their results are used in some way that leaves no trace in the requested maps
        if not same:
            for path, module in kept.items():
                self.model.set_submodule(path, module)
        for parameter in self.model.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)

    def _dummy_forward(self, name: str) -> list[Tensor]:
        """Run one small image; raise ValueError if the maps are not those of ``out_spec``."""
        coarsest = self.out_spec.strides[-1]
        # Not square, so that exchanged axes show; a multiple of the stride, as padded images are.
        height, width = dummy_size(coarsest)
        training = self.training
        self.eval()  # norm statistics and the random state stay untouched
        parameter = next(self.model.parameters())
        try:
            with torch.enable_grad(), accepts_size(name, (height, width), coarsest):
                features: list[Tensor] = self(_noise(height, width).to(parameter.device, parameter.dtype))
        finally:
            self.train(training)
        expected = [
            (1, channels, height // stride, width // stride)
            for channels, stride in zip(self.out_spec.channels, self.map_strides or self.out_spec.strides, strict=True)
        ]
        shapes = [tuple(feature.shape) for feature in features]
        if shapes != expected:
            raise InputError(
                f"backbone {name}: an image of {height} x {width} pixels gives maps {shapes}, but its description "
                f"promises {expected}; take another model"
            )
        return features


def _noise(height: int, width: int) -> Tensor:
    """An image on which any change of a model shows: on one of zeros, the maps of a random model are zeros as well."""
    own = torch.Generator().manual_seed(0)  # torch's own generator stays as it is
    return torch.randn(1, 3, height, width, generator=own, device="cpu")


def dummy_size(stride: int) -> tuple[int, int]:
    """(height, width) of the image on which a model of that coarsest stride is tried."""
    return max(2 * stride, 64), max(3 * stride, 96)


@contextmanager
def accepts_size(name: str, size: tuple[int, int], stride: int) -> Iterator[None]:
    """Turn what a model raises on an image it cannot take into a ValueError that says so."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise InputError(
            f"backbone {name}: an image of {size[0]} x {size[1]} pixels fails ({error}). Detectors feed images of any "
            f"size that is a multiple of {stride}; take a model without a fixed input size"
        ) from error


def behind(outputs: Iterable[Tensor]) -> set[int]:
    """``id`` of every parameter that the outputs depend on, found in the autograd graph."""
    pending = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(pending)
    parameters: set[int] = set()
    while pending:
        node = pending.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            parameters.add(id(variable))
        for source, _ in node.next_functions:
            if source is not None and source not in seen:
                seen.add(source)
                pending.append(source)
    return parameters


def unused_modules(model: nn.Module, used: set[int]) -> list[str]:
    """Names of the largest modules that have parameters, but none with its ``id`` in ``used``."""
    found: list[str] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            parameters = list(child.parameters())
            # The owner indexes a container or iterates over it: only its members can be replaced.
            container = isinstance(child, nn.ModuleList | nn.ModuleDict)
            if any(id(parameter) in used for parameter in parameters) or (parameters and container):
                visit(child, f"{prefix}{key}.")
            elif parameters:
                found.append(f"{prefix}{key}")

    visit(model, "")
    return found


def stage_parameters(
    model: nn.Module, taps: Mapping[str, tuple[int, Tensor]], frozen_stages: int, name: str
) -> set[str]:
    """Names of the parameters of the first ``frozen_stages`` stages.

    Stage 1 is the stem (C1, all before C2), stage n > 1 ends in Cn: with ``n`` frozen stages nothing that Cn depends on
    learns.

    Args:
        model: the model that made the taps; a dummy on the meta device will do.
        taps: module name to (stride, output), in order of execution.
        frozen_stages: 0 freezes nothing.
        name: the model's name, for messages.

    Raises:
        ValueError: if the model has no such stage.
    """
    if frozen_stages == 0:
        return set()
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    deepest = max(stride for stride, _ in taps.values()).bit_length() - 1
    upto = [output for stride, output in taps.values() if stride <= 2**frozen_stages]
    if 0 < frozen_stages <= deepest and upto:
        return {names[key] for key in behind(upto) if key in names}
    if frozen_stages == 1:
        # No map of stride 2: the stem is what lies before the first stage's own modules.
        first, (_, output) = next(iter(taps.items()))
        inside = (f"{first}.", f"{first.replace('.', '_')}.")
        return {names[key] for key in behind([output]) if key in names and not names[key].startswith(inside)}
    strides = sorted({stride for stride, _ in taps.values()})
    raise InputError(
        f"backbone {name}: frozen_stages={frozen_stages} freezes all up to stride {2 ** max(frozen_stages, 0)}, but "
        f"this model has maps of strides {strides}; give 0 (none), 1 (stem) or a level, at most {deepest}"
    )


def last_per_stride(strides: Sequence[int], levels: Sequence[int], name: str) -> list[int]:
    """Index of the last map of each requested level.

    Args:
        strides: the model's maps, in order of execution.
        levels: log2 of the wanted strides, ascending.
        name: the model's name, for messages.

    Raises:
        ValueError: if levels are not ascending, or the model lacks one.
    """
    if not levels or list(levels) != sorted(set(levels)):
        raise InputError(f"backbone {name}: levels must ascend and not repeat, such as [3, 4, 5]; got {list(levels)}")
    last = {stride: index for index, stride in enumerate(strides)}
    lacking = [2**level if level >= 0 else level for level in levels if level < 0 or 2**level not in last]
    if lacking:
        has = ", ".join(f"{stride} (level {stride.bit_length() - 1})" for stride in sorted(last)) or "none"
        raise InputError(
            f"backbone {name}: levels {list(levels)} need maps of stride {', '.join(map(str, lacking))}, but this "
            f"model has strides: {has}; choose other levels or another model"
        )
    return [last[2**level] for level in levels]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or torch.equal(a, b)


def _frozen_modules(model: nn.Module, frozen: set[str]) -> list[str]:
    """Names of the largest modules all of whose parameters are frozen."""
    found: list[str] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            path = f"{prefix}{key}"
            own = [f"{path}.{parameter}" for parameter, _ in child.named_parameters()]
            if own and all(parameter in frozen for parameter in own):
                found.append(path)
            else:
                visit(child, f"{path}.")

    visit(model, "")
    return found
