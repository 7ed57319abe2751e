"""EfficientNet's weights in the names of lukemelas' package, and of those that took them over, as timm names them.

Source: https://github.com/lukemelas/EfficientNet-PyTorch counts all blocks in a row; EfficientNet-Lite's ports count
them by stage and have ``stem`` and ``head``. timm counts by stage too. The numbers are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_BLOCK = re.compile(r"(.*?)_?blocks\.(?:(\d+)\.)?(\d+)\._(\w+)\.(\w+)")
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
    "stem.0": "conv_stem",
    "stem.1": "bn1",
    "head.0": "conv_head",
    "head.1": "bn2",
    "fc": "classifier",
}
_EXPANDED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
}
_PLAIN = {
    "depthwise_conv": "conv_dw",
    "bn1": "bn1",
    "project_conv": "conv_pw",
    "bn2": "bn2",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
}
"""A block that does not expand has no first convolution."""


def as_timm(weights: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
    """The weights under timm's names; as they are, if they are not named so.

    Args:
        weights: of a file.
        known: names of timm's full model, in its order.
    """
    matched = {key: match for key in weights if (match := _BLOCK.fullmatch(key))}
    if not matched:
        return dict(weights)
    prefix = next(iter(matched.values()))[1]
    places = list(dict.fromkeys(m[1] for key in known if (m := re.match(r"blocks\.(\d+\.\d+)\.", key))))
    expanded = {match[0].rpartition("._")[0] for match in matched.values() if match[4] == "expand_conv"}
    found = {}
    for key, value in weights.items():
        if match := matched.get(key):
            _, stage, number, layer, kind = match.groups()
            layers = _EXPANDED if key.rpartition("._")[0] in expanded else _PLAIN
            place = f"{stage}.{number}" if stage else places[int(number)] if int(number) < len(places) else None
            if place and layer in layers:
                found[f"blocks.{place}.{layers[layer]}.{kind}"] = value
                continue
        begins, _, kind = key.removeprefix(prefix).rpartition(".")
        found[f"{_AROUND[begins]}.{kind}" if begins in _AROUND else key] = value
    return found
