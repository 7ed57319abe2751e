"""Fine-tuning: a detector starts from the weights of another, by the names of modules and of classes.

What has the same name and shape is taken. Of what depends on the classes, each class takes the rows of the class of its
name, whatever their order and number, and the background those of the background. All else starts as it would anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from detfuse.attention.inserts import Insert, inserts_of
from detfuse.errors import InputError
from detfuse.heads.classes import Classed, ClassRows
from detfuse.ops.translation import ABSENT, positions
from detfuse.protocols import Backbone
from detfuse.structures import IMAGENET, Categories, Pretrained
from detfuse.weights.checkpoint import COUNTER
from detfuse.weights.sources import Source
from detfuse.words import some

_BACKBONE = "backbone."


@dataclass(frozen=True)
class Kept:
    """What a detector has of a source.

    Attributes:
        whole: names of weights that were taken as they are.
        in_part: of those whose classes were taken one by one, perhaps not all.
        new: of those that start anew.
        left: of the source's that the detector has no place for.
        classes: names of the classes whose weights were taken.
        new_classes: of those that are not the source's; their rows start anew.
        left_classes: of the source's that the detector does not have.
    """

    whole: list[str] = field(default_factory=list)
    in_part: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)
    left_classes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A few lines for people."""
        total = len(self.whole) + len(self.in_part) + len(self.new)
        lines = [f"kept: {len(self.whole) + len(self.in_part)} of {total} weights{_where(self.whole + self.in_part)}"]
        if self.in_part:
            known = f"{len(self.classes)} of {len(self.classes) + len(self.new_classes)} classes by name"
            lines.append(f"      {known}" + (f": {some(self.classes)}" if self.classes else ""))
        if self.new_classes:
            lines.append(f"new:  classes {some(self.new_classes)}")
        if self.new:
            lines.append(f"new:  {len(self.new)} weights{_where(self.new)}")
        if self.left:
            lines.append(f"left: {len(self.left)} weights of the source{_where(self.left)}")
        if self.left_classes:
            lines.append(f"left: classes {some(self.left_classes)}")
        return "\n".join(lines)


def _where(names: Sequence[str]) -> str:
    """The modules that weights belong to, with their number: ``: backbone 265, neck 16``."""
    counts = Counter(".".join(name.split(".")[: 1 if name.startswith(_BACKBONE) else 2]) for name in names)
    return f": {some([f'{module} ({count})' for module, count in counts.items()], 8)}" if counts else ""


class SourceStart:
    """A source as what a run starts from (:class:`detfuse.build.Start`).

    Args:
        source: the weights.

    Attributes:
        kept: what the detector has of it, once it was given.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kept = Kept()

    def announce(self, backbone: Backbone) -> None:
        """Let the backbone say what of it is going to be read: it learns and sees images as a pretrained one.

        Raises:
            InputError: if the source has nothing of this backbone.
        """
        own = backbone.state_dict()  # type: ignore[attr-defined]  # a module
        state = {k.removeprefix(_BACKBONE): v for k, v in self.source.state.items() if k.startswith(_BACKBONE)}
        fitting = frozenset(key for key, value in state.items() if key in own and own[key].shape == value.shape)
        if not fitting:
            raise InputError(
                f"init_from={self.source.name}: nothing of it fits this backbone, whose weights are such as "
                f"{some(list(own), 2)}; the source has {some(list(state), 2)}. Take the source's backbone: its "
                "experiment=, or backbone= and backbone.name="
            )
        told = Pretrained(self.source.name, self.source.normalization or IMAGENET, fitting)
        backbone.pretrained = told  # type: ignore[attr-defined]  # as its protocol says

    def give(self, detector: nn.Module, classes: Categories) -> None:
        """Put the weights into the detector, and note what it kept."""
        self.kept = transfer(detector, self.source, classes)


def transfer(detector: nn.Module, source: Source, classes: Categories) -> Kept:
    """Give a detector what it has in common with a source.

    Args:
        detector: of these classes; changed in place.
        source: weights; without names of its classes they are taken for the detector's, if there are as many.
        classes: the detector's.
    """
    known = source.categories or (classes if source.num_classes == len(classes) else None)
    at = positions(classes.names, known.names) if known else [ABSENT] * len(classes)
    rows = _class_rows(detector)
    kept = Kept()
    given: dict[str, Tensor] = {}
    own = detector.state_dict()
    for key, value in own.items():
        theirs = source.state.get(key)
        layout = next((rows[begins] for begins in rows if key.startswith(begins)), None)
        if theirs is None or theirs.is_floating_point() != value.is_floating_point():
            found, into = None, kept.new
        elif layout is not None:
            found, into = _by_class(value, theirs, layout, at, source.num_classes), kept.in_part
        else:
            found, into = (theirs if theirs.shape == value.shape else None), kept.whole
        if not key.endswith(COUNTER):
            (kept.new if found is None else into).append(key)
        if found is not None:
            given[key] = found
    detector.load_state_dict(given, strict=False)
    kept.left.extend(k for k in source.state if k not in given and not k.endswith(COUNTER))
    if kept.in_part:
        for name, position in zip(classes.names, at, strict=True):
            (kept.new_classes if position == ABSENT else kept.classes).append(name)
        taken = set(at)
        kept.left_classes.extend(n for i, n in enumerate(known.names if known else ()) if i not in taken)
    return kept


def _class_rows(detector: nn.Module) -> dict[str, ClassRows]:
    head = detector.get_submodule("head")
    return {f"head.{begins}": rows for begins, rows in head.class_rows().items()} if isinstance(head, Classed) else {}


def _by_class(own: Tensor, theirs: Tensor, rows: ClassRows, at: Sequence[int], count: int) -> Tensor | None:
    """A weight with the rows of the classes that the source knows; None if it does not fit otherwise."""
    if theirs.shape[1:] != own.shape[1:] or len(theirs) != rows.groups * (rows.background + count) * rows.each:
        return None
    shape = (rows.groups, -1, rows.each, *own.shape[1:])
    mine, given = own.reshape(shape).clone(), theirs.reshape(shape).to(own)
    mine[:, : rows.background] = given[:, : rows.background]
    for position, source in enumerate(at):
        if source != ABSENT:
            mine[:, rows.background + position] = given[:, rows.background + source]
    return mine.reshape(own.shape)


def new_inserts(detector: nn.Module, state: Mapping[str, Tensor]) -> list[Insert]:
    """The inserts of a detector that a source does not have."""
    return [
        insert for name, insert in inserts_of(detector).items() if not any(key.startswith(f"{name}.") for key in state)
    ]
