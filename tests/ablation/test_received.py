"""An ablation's folder from somebody else: it is read, and it can neither run anything nor write elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Arm, Plan
from detfuse.ablation.report.conclusion import _shared_start
from detfuse.ablation.storage import PLAN, write_plan
from detfuse.cli import ablation_run
from detfuse.cli.settings import AblateSettings
from detfuse.config import TrainSettings, conf_dir
from detfuse.config.resolve import resolve
from detfuse.errors import UserError
from detfuse.files.records import to_plain
from detfuse.runs.invocation import Invocation

GOOD = Plan("got", (Arm("fpn", {}, ()), Arm("pafpn", {"neck": "pafpn"}, ("neck=pafpn",))), (0,), ("neck.width=16",))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return resolve(["report_only=true", "name=got"], AblateSettings).config


def report(config: dict[str, Any], runs_dir: Path) -> None:
    """``ablate name=got report_only=true`` in this process."""
    given = {**config, "runs_dir": str(runs_dir)}
    ablation_run.run(Invocation(given, [], {"ablation": "quickstart"}, multirun=False, directories=[conf_dir()]))


def test_its_plan_calls_nothing_and_is_told_in_a_line(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "ablations" / "got"
    hub = "{_target_:torch.hub.load,_args_:[evil,m],source:local}"
    for text, said in (
        (f"++data.transform={hub}", "plan.yaml, arm fpn: its configuration calls torch.hub.load at data.transform"),
        (f"+callbacks.mine={hub}", "arm fpn: its configuration calls torch.hub.load at callbacks.mine"),
        (
            "+neck._recursive_=false",
            "plan.yaml: the ablation has 1 mistake:\n  all arms: +neck._recursive_=false: there is no",
        ),
        ("backbone.name=${oc.env:HOME}", "has the unresolved value 'backbone.name=${oc.env:HOME}'"),
        ("--config-dir=evil", "'--config-dir=evil' is no setting of train"),
        ("-m", "'-m' is no setting of train"),
        ("hydra.searchpath=[file://evil]", "is no setting of train"),
        ("hydra/launcher=evil", "is no setting of train"),
    ):
        write_plan(folder, replace(GOOD, common=(text,)))
        with pytest.raises(UserError) as error:
            report(config, tmp_path)
        assert said in str(error.value), (text, str(error.value))
        assert len(str(error.value).splitlines()) <= 2
    for edit, said in (
        ({"arms": [{**to_plain(arm), "name": f"../{arm.name}"} for arm in GOOD.arms]}, "names are made of"),
        ({"arms": []}, "it has no arms or no seeds"),
        ({"seeds": []}, "it has no arms or no seeds"),
        ({"typed": ["--config-dir=evil"]}, "is no setting of train or ablate"),
        ({"notes": [["x"] * 400] * 400}, "more than 100,000 values"),
    ):
        (folder / PLAN).write_text(yaml.safe_dump({**to_plain(GOOD), **edit}))
        with pytest.raises(UserError, match=said):
            report(config, tmp_path)


def test_its_links_lead_nowhere(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "ablations" / "got"
    write_plan(folder, GOOD)
    with pytest.raises(UserError, match="2 of 2 runs are missing"):
        report(config, tmp_path)
    (folder / "runs").mkdir()
    (folder / "runs" / "fpn").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"runs/fpn is a symbolic link out of .*got"):
        report(config, tmp_path)


def test_its_backbones_read_nothing_to_be_compared_again() -> None:
    """Before training, backbones that read the same weights are equal, others are not: nobody needs the weights."""
    small = ["backbone.name=test_resnet", "neck.out_channels=8", "head.num_convs=1"]
    plan = Plan("p", tuple(Arm(name, {}, ()) for name in ("a", "same", "none")), (0,), ())
    file = "backbone.pretrained=/no/such/file.pth"
    read = {"a": [file], "same": [file], "none": []}
    resolved = {name: resolve([*small, *typed], TrainSettings) for name, typed in read.items()}
    shares = _shared_start(Prepared(plan, resolved, ()), 3)
    assert shares["same"] == 1
    assert 0 < shares["none"] < 1
