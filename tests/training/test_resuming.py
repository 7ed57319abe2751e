"""A resumed run goes on as it began, by what its checkpoint says, also if an older version began it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch import Tensor, nn

from detfuse.attention.inserts import Insert
from detfuse.structures import IMAGENET, Pretrained
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.module import DetectionModule
from detfuse.training.optim import adamw
from detfuse.training.resuming import ResumeError

READ = frozenset({"conv.weight", "norm.weight", "norm.bias"})


class Stop(pl.Callback):
    """Ends the run after its first epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def module_of(read: frozenset[str] | None, *, multiplier: float, site: str = "") -> DetectionModule:
    """A module whose backbone was read in part, or drawn; with attention in the backbone or in the neck."""
    module: Any = make_module(Quadrants())
    module.config["backbone"] = {"pretrained": bool(read)}
    backbone = module.detector.backbone
    backbone.pretrained = Pretrained("a file", IMAGENET, read) if read else None
    torch.manual_seed(1)
    for part, kind in ((backbone, "stage"), (module.detector.neck, "lateral")):
        if kind in site:
            part.register_module("insert", Insert(nn.Conv2d(8, 8, 1), kind, "c4", 4))  # type: ignore[arg-type]
            part.register_forward_hook(lambda part, _, maps: [part.insert(x) for x in maps])
    module._optimizer = partial(adamw, lr=0.1, reference_batch=None, backbone_multiplier=multiplier)
    found: DetectionModule = module
    return found


def by_place(module: nn.Module, *, lr: float, weight_decay: float, backbone_multiplier: float) -> list[dict[str, Any]]:
    """The groups of the versions before parameters were grouped by what they are."""
    groups: dict[str, dict[str, Any]] = {}
    for name, p in module.named_parameters():
        slow, decays = name.startswith("backbone."), p.ndim > 1
        key = ("backbone" if slow else "rest") + ("" if decays else ", no decay")
        rate, decay = lr * backbone_multiplier if slow else lr, weight_decay if decays else 0.0
        groups.setdefault(key, {"name": key, "params": [], "lr": rate, "weight_decay": decay})["params"].append(p)
    return list(groups.values())


def begun_by_an_older_version(fit: Fit, folder: Path, module: DetectionModule, patch: pytest.MonkeyPatch) -> Path:
    last = folder / "checkpoints" / "last.ckpt"
    with patch.context() as older:
        older.setattr("detfuse.training.optim.parameter_groups", by_place)
        fit(module=module, callbacks=[Stop(), Checkpoints()], max_epochs=3)
    stored = torch.load(last, weights_only=True)
    stored["detfuse"].pop("pretrained", None)
    torch.save(stored, last)
    return last


def weights(module: DetectionModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.detector.state_dict().items()}


def test_what_was_read_travels_in_the_checkpoint(fit: Fit, tmp_path: Path) -> None:
    """The resumed run's backbone reads nothing, and yet has the rates, the groups and the weights of a whole run."""
    part = frozenset({"conv.weight", "norm.bias"})
    whole, _ = fit(module=module_of(part, multiplier=0.0, site="stage lateral"), max_epochs=3)
    began = module_of(part, multiplier=0.0, site="stage lateral")
    fit(module=began, callbacks=[Stop(), Checkpoints()], max_epochs=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    resumed, trainer = fit(module=module_of(None, multiplier=0.0, site="stage lateral"), max_epochs=3, ckpt_path=last)
    assert resumed.detector.backbone.pretrained == began.detector.backbone.pretrained  # type: ignore[attr-defined]
    names = [group["name"] for group in trainer.optimizers[0].param_groups]
    assert names[:3] == ["pretrained", "new, no decay", "pretrained, no decay"]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    start = weights(make_module(Quadrants()))
    after = weights(resumed)
    moved = {name for name, value in start.items() if not torch.equal(value, after[name])}
    assert not moved & {f"backbone.{name}" for name in part}
    assert {"backbone.norm.weight", "neck.fuse.weight"} <= moved


@pytest.mark.parametrize(
    ("read", "multiplier", "site"),
    [(READ, 0.25, "lateral"), (None, 1.0, "stage lateral"), (READ, 1.0, "stage")],
)
def test_an_older_run_whose_rates_are_the_same_now_goes_on_to_the_same_weights(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: frozenset[str] | None, multiplier: float, site: str
) -> None:
    whole, _ = fit(module=module_of(read, multiplier=multiplier, site=site), max_epochs=3)
    began = module_of(read, multiplier=multiplier, site=site)
    last = begun_by_an_older_version(fit, tmp_path, began, monkeypatch)
    resumed, trainer = fit(module=module_of(None, multiplier=multiplier, site=site), max_epochs=3, ckpt_path=last)
    assert {group["name"].split(",")[0] for group in trainer.optimizers[0].param_groups} == (
        {"pretrained", "insert", "new"} if read else {"insert", "new"}
    )
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize(("read", "site"), [(READ, "stage lateral"), (None, "")])
def test_an_older_run_with_other_rates_than_now_is_refused(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: frozenset[str] | None, site: str
) -> None:
    last = begun_by_an_older_version(fit, tmp_path, module_of(read, multiplier=0.25, site=site), monkeypatch)
    with pytest.raises(ResumeError, match=r"an older version.*peaks of 0\.025 and 0\.1"):
        fit(module=module_of(None, multiplier=0.25, site=site), max_epochs=3, ckpt_path=last)
