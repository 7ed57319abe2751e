"""Attention in a backbone: hooks on the stages and blocks of a timm model, surgery on torchvision's traced graph.

Both leave every name of the model as it is, so that weights with and without attention fit each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import timm.models.res2net
import timm.models.resnet
from torch import Tensor, fx, nn

from detfuse.attention.inserts import Attention, Insert, Site, chosen_levels, make_insert
from detfuse.errors import InputError

_BRANCHED = (timm.models.resnet.BasicBlock, timm.models.resnet.Bottleneck, timm.models.res2net.Bottle2neck)
"""timm's blocks with a place for attention at the end of their residual branch, where SE's and ECA's papers put it."""


@dataclass
class _AfterStage:
    """A forward hook; an object, so that a deep copy of the backbone has the copy's insert."""

    insert: Insert

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x: Tensor = self.insert(output)
        return x


@dataclass
class _BeforeBlock:
    """A forward pre-hook; see :class:`_AfterStage`."""

    insert: Insert

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.insert(inputs[0]), *inputs[1:])


class Stage(NamedTuple):
    """One stage of a model.

    Attributes:
        module: name of the module whose output is the stage's map.
        channels: width of that map.
        nhwc: whether it comes as (B, H, W, C).
        returned: whether the neck reads it; only those have attention unless ``attention.levels`` says otherwise.
    """

    module: str
    channels: int
    nhwc: bool
    returned: bool


Stages = Mapping[int, Stage]
"""Level -> stage, finest first."""


def attend_stages(model: nn.Module, stages: Stages, attention: Attention, name: str) -> nn.ModuleDict:
    """Put attention into a timm model.

    Args:
        model: as timm's ``features_only`` makes it.
        stages: all up to the coarsest that is returned.
        attention: the backbone's sites.
        name: the model's, for messages.

    Returns:
        The inserts that are no part of ``model`` itself; their owner registers them.

    Raises:
        ValueError: if the model has no such site.
    """
    part = f"backbone {name}"
    made = nn.ModuleDict()
    for level, stage in _chosen(attention, "branch", stages, part):
        blocks = [block for block in _module(model, stage).modules() if isinstance(block, _BRANCHED)]
        if not blocks:
            raise _no_branch(part)
        for index, block in enumerate(blocks):
            if block.se is not None:
                raise InputError(
                    f"attention.branch: the blocks of {part} have attention of their own at the end of their branch "
                    f"({type(block.se).__name__}); take a model without it, or another site"
                )
            width = _out_channels(block)
            block.se = make_insert(attention, "branch", f"c{level} block {index + 1}", level, width)
    for level, stage in _chosen(attention, "before_last_block", stages, part):
        last = _last_block(_module(model, stage), level, part)
        made[f"before_last_block_c{level}"] = insert = _made(attention, "before_last_block", level, stage)
        last.register_forward_pre_hook(_BeforeBlock(insert))
    for level, stage in _chosen(attention, "stage", stages, part):
        made[f"stage_c{level}"] = insert = _made(attention, "stage", level, stage)
        # first of the hooks: timm itself collects maps by hooks in some families
        _module(model, stage).register_forward_hook(_AfterStage(insert), prepend=True)
    return made


def _chosen(attention: Attention, site: Site, stages: Stages, part: str) -> list[tuple[int, Stage]]:
    returned = [level for level, stage in stages.items() if stage.returned]
    return [(level, stages[level]) for level in chosen_levels(attention, site, list(stages), part, returned)]


def _made(attention: Attention, site: Site, level: int, stage: Stage) -> Insert:
    return make_insert(attention, site, f"c{level}", level, stage.channels, nhwc=stage.nhwc)


def _module(model: nn.Module, stage: Stage) -> nn.Module:
    """A stage by timm's name for it; ``features_only`` flattens the names of some families."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    return modules[stage.module if stage.module in modules else stage.module.replace(".", "_")]


def _last_block(stage: nn.Module, level: int, part: str) -> nn.Module:
    blocks: list[nn.Module] = list(getattr(stage, "blocks", stage).children())
    if len(blocks) < 2:
        raise InputError(
            f"attention.before_last_block: stage C{level} of {part} has "
            f"{'one block only' if blocks else 'no blocks'}, so nothing of the stage lies before its last; take a "
            f"deeper model (backbone=resnet50), other attention.levels.before_last_block, or attention@attention.stage"
        )
    return blocks[-1]


def _out_channels(block: Any) -> int:
    """Width at the end of a block's branch."""
    norms = [layer for layer in block.children() if isinstance(getattr(layer, "num_features", None), int)]
    width: int = norms[-1].num_features
    return width


def _no_branch(part: str) -> ValueError:
    return InputError(
        f"attention.branch: {part} has no residual branch with a place for it; ResNets (timm's and torchvision's) and "
        "Res2Nets have. Elsewhere take attention@attention.stage"
    )


# ---- torchvision


def attend_graphs(model: Any, stages: Stages, attention: Attention, name: str) -> None:
    """Put attention into a model that torch.fx traced, in its training and its evaluation graph.

    The inserts are registered as ``attention`` in the model.

    Args:
        model: of ``create_feature_extractor``, whose outputs are named by their strides.
        stages: all up to the coarsest that is returned.
        attention: the backbone's sites.
        name: the model's, for messages.

    Raises:
        ValueError: if the model has no such site.
    """
    model.attention = inserts = nn.ModuleDict()
    part = f"backbone {name}"
    graphs: list[fx.Graph] = [model.train_graph, model.eval_graph]
    for level, stage in _chosen(attention, "branch", stages, part):
        ends = list(_branch_ends(graphs[0], model, stage.module))
        if not ends:
            raise _no_branch(part)
        for index, (end, width) in enumerate(ends):
            key = f"branch_c{level}_{index + 1}"
            inserts[key] = make_insert(attention, "branch", f"c{level} block {index + 1}", level, width)
            for graph in graphs:
                _insert_after(graph, _call_of(graph, end), f"attention.{key}")
    for level, stage in _chosen(attention, "before_last_block", stages, part):
        key = f"before_last_block_c{level}"
        block = _last_block_name(graphs[0], stage.module, level, part)
        inserts[key] = _made(attention, "before_last_block", level, stage)
        for graph in graphs:
            _insert_before_block(graph, block, f"attention.{key}")
    for level, stage in _chosen(attention, "stage", stages, part):
        key = f"stage_c{level}"
        inserts[key] = _made(attention, "stage", level, stage)
        for graph in graphs:
            _insert_after(graph, _output(graph, str(2**level)), f"attention.{key}")
    model.graph = graphs[0] if model.training else graphs[1]  # generates its code again


def _targets_below(graph: fx.Graph, prefix: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module" and str(node.target).startswith(f"{prefix}.")]


def _call_of(graph: fx.Graph, target: str) -> fx.Node:
    calls: list[fx.Node] = [node for node in graph.nodes if node.op == "call_module" and node.target == target]
    return calls[0]


def _output(graph: fx.Graph, key: str) -> fx.Node:
    returned = next(node for node in graph.nodes if node.op == "output").args[0]
    assert isinstance(returned, dict)
    found = returned[key]
    assert isinstance(found, fx.Node)
    return found


def _branch_ends(graph: fx.Graph, model: nn.Module, stage: str) -> Iterator[tuple[str, int]]:
    """The last norm of every residual branch of a ResNet's stage, with its width: the one whose result is added."""
    for node in _targets_below(graph, stage):
        target = str(node.target)
        norm = model.get_submodule(target)
        added = any(user.op == "call_function" and "add" in str(user.target) for user in node.users)
        if added and target.rpartition(".")[2].startswith("bn"):
            yield target, int(norm.num_features)  # type: ignore[arg-type]  # of a BatchNorm, whatever its kind


def _last_block_name(graph: fx.Graph, stage: str, level: int, part: str) -> str:
    parts = [str(node.target)[len(stage) + 1 :].split(".")[0] for node in _targets_below(graph, stage)]
    names = list(dict.fromkeys(parts))
    if len(names) < 2:
        raise InputError(
            f"attention.before_last_block: stage C{level} of {part} has {'one block only' if names else 'no blocks'}; "
            "take another model, other attention.levels.before_last_block, or attention@attention.stage"
        )
    return f"{stage}.{names[-1]}"


def _insert_after(graph: fx.Graph, node: fx.Node, target: str) -> None:
    with graph.inserting_after(node):
        inserted = graph.call_module(target, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def _insert_before_block(graph: fx.Graph, block: str, target: str) -> None:
    """What enters a block passes the insert, on the way to its branch and to its shortcut alike."""
    first = _targets_below(graph, block)[0]
    entering = first.args[0]
    assert isinstance(entering, fx.Node)
    order = {node: index for index, node in enumerate(graph.nodes)}
    with graph.inserting_before(first):
        inserted = graph.call_module(target, (entering,))
    entering.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user is not inserted and order[user] >= order[first]
    )
