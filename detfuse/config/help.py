"""The text of ``--help``: what the command does, every group with its options, how to write them."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detfuse.config.location import conf_dir
from detfuse.config.schema.compose import Composer, composer_of
from detfuse.config.settings import Settings

_SYNTAX = """\
  group=option          choose another part:            neck=pafpn
  group@place=option    where a group has several places: resample@resample.up=bilinear
  key=value             change a setting of a part:     neck.out_channels=64
  +key=value            add one that the YAML does not list
  key=a,b -m            sweep over values
  Quote what the shell or the parser would take apart: 'data.root="/path with spaces, and commas"'."""


def help_text(settings: type[Settings], purpose: str, examples: str, user: Path | None = None) -> str:
    """The help of a command.

    Args:
        settings: of the command.
        purpose: what it does, in a sentence.
        examples: lines; ``{command}`` stands for the program.
        user: a folder given by ``--config-dir``, whose options are listed too.
    """
    composer = composer_of(conf_dir(), user, settings.command)
    composed = composer.compose([])
    command, script = settings.called()
    usage = f"{command} {'[group=option ...] ' if composed.choices else ''}[key=value ...]"
    return "\n".join(
        [
            purpose,
            "",
            f"{usage} [-m] [--config-dir DIR] [--cfg job]",
            f"(in a checkout: {script})",
            "",
            *_groups(settings, composer, composed.choices),
            "Settings of the command:",
            *_settings(settings, composed.config),
            "",
            *(["How to write:", _SYNTAX, ""] if composed.choices else []),
            "Examples:",
            textwrap.indent(textwrap.dedent(examples).format(command=command), "  "),
            "",
            "Every setting with its default and meaning: --cfg job, and the comments in",
            f"  {conf_dir()}",
        ]
    )


def _groups(settings: type[Settings], composer: Composer, chosen: dict[str, str]) -> list[str]:
    if not chosen:
        return []
    allowed = settings.open_groups
    lines = [
        "Groups (* marks the default):"
        if allowed is None
        else "Groups that may be changed (the default is the checkpoint's):"
    ]
    for group, options in composer.groups.items():
        if allowed is not None and group not in allowed:
            continue  # the checkpoint decides
        places: dict[str, list[str]] = {}  # the options of a group, with its default -> where it is mounted
        for mount in sorted((mount for mount in chosen if mount.split("@")[0] == group), reverse=group == "resample"):
            listed = "  ".join(
                f"{option}*" if allowed is None and option == chosen[mount] else option for option in options
            )
            places.setdefault(listed, []).append(mount)
        for listed, mounts in places.items():
            starts = [f"  {mount}=" for mount in mounts]
            lines += [*starts[:-1], *_wrapped(listed, starts[-1])]
    return [*lines, ""]


def _wrapped(listed: str, start: str) -> list[str]:
    return textwrap.wrap(listed, 118, initial_indent=f"{start:<26}", subsequent_indent=" " * 26)


def _settings(settings: type[Settings], config: DictConfig) -> list[str]:
    lines = []
    for name, meaning in _meanings(settings).items():
        missing = OmegaConf.is_missing(config, name)
        value = "(required)" if missing else "null" if config[name] is None else str(config[name]).lower()
        lines.append(f"  {f'{name}={value}':<24}{meaning}")
    return lines


def _meanings(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a dataclass says about each of its fields, without marks."""
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2].partition("\n\n")[0]
    lines = textwrap.dedent(text).replace("\n    ", " ").splitlines()  # what is indented goes on
    said = {name: meaning for name, _, meaning in (line.partition(": ") for line in lines)}
    return {field.name: said[field.name].replace("``", "").rstrip(".") for field in fields(kind)}
