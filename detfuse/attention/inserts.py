"""Attention at its place: the sites that the rooms offer, and the module that stands there.

A part is given its :data:`Sites`, what stands at each, and asks :func:`make_insert` for one of its places. In a
notebook that is a factory per site:

>>> from functools import partial
>>> from detfuse.attention import SE
>>> from detfuse.heads.retinanet import RetinaNetHead
>>> from detfuse.structures import FeatureSpec
>>> head = RetinaNetHead(FeatureSpec((32,), (8,)), 3, num_convs=1, attention={"head": partial(SE, ratio=8)})
>>> [f"{place.kind} at {place.at}" for place in places_of(head)]
['SE at cls_tower.0', 'SE at box_tower.0']

Every insert is found again by walking the modules: the summary, the drawing and the memory check read
:class:`Insert`, and no room keeps a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.protocols import AttentionFactory
from detfuse.ranges import PositiveInt, checked
from detfuse.structures import FeatureSpec

BackboneSite = Literal["stage", "branch", "before_last_block"]
NeckSite = Literal["lateral", "fused", "output"]
HeadSite = Literal["head"]
Site = Literal[BackboneSite, NeckSite, HeadSite]
"""Where attention may stand:

* ``stage``: on C_i at a stage's end, before the neck and the next stage;
* ``branch``: at the end of every residual branch of a stage, before the addition (the paper's SE);
* ``before_last_block``: before a stage's last block (the paper's Non-local);
* ``lateral``: on a backbone map that enters the neck, after its 1x1 and before any resampling;
* ``fused``: on a node that fused two maps or more, before its block;
* ``output``: on a map that the head reads, and only the head;
* ``head``: after every activation of a head's towers.
"""

BACKBONE_SITES: tuple[Site, ...] = get_args(BackboneSite)
NECK_SITES: tuple[Site, ...] = get_args(NeckSite)
HEAD_SITES: tuple[Site, ...] = get_args(HeadSite)


@dataclass(frozen=True)
class AttentionChoice:
    """What stands at a site, where it is not to stand on every level.

    Attributes:
        factory: makes the module from the width of the map.
        levels: log2 of the strides of the maps that get one; None: all that the room has.
    """

    factory: AttentionFactory
    levels: tuple[int, ...] | None = None


@checked
@dataclass(frozen=True, kw_only=True)
class Levels:
    """The levels of each site that get attention, as log2 of the stride; None: all that the neck reads or makes."""

    stage: Sequence[PositiveInt] | None = None
    branch: Sequence[PositiveInt] | None = None
    before_last_block: Sequence[PositiveInt] | None = None
    lateral: Sequence[PositiveInt] | None = None
    fused: Sequence[PositiveInt] | None = None
    output: Sequence[PositiveInt] | None = None
    head: Sequence[PositiveInt] | None = None


Sites = Mapping[Site, AttentionFactory | AttentionChoice]
"""What stands at the sites in use; one that is absent has no attention and costs nothing."""


@dataclass(frozen=True)
class Place:
    """Where an insert stands, and what it is: all that a drawing needs.

    Attributes:
        site: see :data:`Site`.
        at: the map, edge or layer, as people call it: ``c4``, ``c4->t4``, ``p3``, ``cls_tower.0``.
        kind: such as ``SE``.
    """

    site: Site
    at: str
    kind: str


class Insert(nn.Module):
    """Attention at one place.

    Args:
        attention: from (B, C, H, W) to the same shape.
        site: where it stands.
        at: see :class:`Place`.
        level: log2 of its map's stride; None where maps of several levels pass.
        nhwc: the maps come as (B, H, W, C).
    """

    def __init__(self, attention: nn.Module, site: Site, at: str, level: int | None, *, nhwc: bool = False) -> None:
        super().__init__()
        self.attention = attention
        self.site = site
        self.at = at
        self.level = level
        self.nhwc = nhwc

    @property
    def kind(self) -> str:
        """See :class:`Place`."""
        return type(self.attention).__name__

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x.permute(0, 3, 1, 2) if self.nhwc else x)
        return y.permute(0, 2, 3, 1) if self.nhwc else y


def make_insert(
    attention: Sites, site: Site, at: str, level: int | None, channels: int, *, nhwc: bool = False
) -> Insert:
    """What stands at one place of a site that is in use; see :func:`chosen_levels` for the levels that get one.

    Raises:
        ValueError: naming the place, if the attention cannot take the width.
    """
    try:
        made = _choice(attention, site).factory(channels)
    except InputError as error:
        raise InputError(f"attention.{site} at {at} ({channels} channels): {error}") from error
    return Insert(made, site, at, level, nhwc=nhwc)


def chosen_levels(
    attention: Sites | None,
    site: Site,
    levels: Sequence[int],
    part: str,
    default: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The levels of a part that get an insert at a site.

    Args:
        attention: the part's.
        site: one of the part's.
        levels: all that it has at this site.
        part: its name, for the message.
        default: those that get one if the configuration names none; None: all.

    Returns:
        The levels; none if the site is not in use.

    Raises:
        ValueError: if a level was chosen that the part does not have there, or none at all.
    """
    if attention is None or site not in attention:
        return ()
    choice = _choice(attention, site)
    has = sorted(set(levels))
    wanted: Sequence[int] | None = choice.levels
    if wanted is None:
        wanted = has if default is None else default
    if not wanted or not set(wanted) <= set(has):
        raise InputError(
            f"attention.levels.{site}={list(wanted)}: {part} has "
            + (f"the levels {', '.join(map(str, has))} there (log2 of the stride)" if has else "no such place")
        )
    return tuple(wanted)


def _choice(attention: Sites, site: Site) -> AttentionChoice:
    """What stands at a site; a bare factory stands on every level."""
    given = attention[site]
    choice = given if isinstance(given, AttentionChoice) else AttentionChoice(given)
    if not callable(choice.factory) or isinstance(choice.factory, nn.Module):
        raise InputError(
            f"attention.{site}: expected what makes a module from its number of channels, such as SE or "
            f"partial(SE, ratio=8), got {choice.factory!r}"
        )
    return choice


def only_sites(attention: Sites | None, offered: Sequence[Site], part: str, why: str = "") -> None:
    """Refuse sites that a part cannot offer.

    Raises:
        ValueError: naming site, part and what it does offer.
    """
    wrong = [site for site in attention or {} if site not in offered]
    if wrong:
        has = ", ".join(offered) or "none"
        raise InputError(
            f"attention.{wrong[0]}: {part} has no such site{f', since {why}' if why else ''}; it offers: {has}"
        )


def output_inserts(attention: Sites | None, spec: FeatureSpec, part: str) -> nn.ModuleList:
    """What stands on each map of a neck that fuses nothing and projects nothing; nothing where none was chosen.

    Raises:
        ValueError: for another site than ``output``, or a level that the neck does not have.
    """
    only_sites(attention, ("output",), part, "it fuses nothing")
    chosen = chosen_levels(attention, "output", spec.levels, part)
    return nn.ModuleList(
        make_insert(attention, "output", f"p{level}", level, channels)
        if attention and level in chosen
        else nn.Identity()
        for level, channels in zip(spec.levels, spec.channels, strict=True)
    )


def places_of(module: nn.Module) -> list[Place]:
    """Where the inserts of a detector or a part of it stand."""
    return [Place(insert.site, insert.at, insert.kind) for insert in inserts_of(module).values()]


def inserts_of(module: nn.Module) -> dict[str, Insert]:
    """Every insert of a detector or a part of it, by its dotted name, in order of definition."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Insert)}
