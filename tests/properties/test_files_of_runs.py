"""What lies in the folders of runs and ablations, cut, edited or somebody else's: read as it stands, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hostile import as_bytes, changed, json_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_annotation_files import assert_told
from test_result_files import RESULTS, TRUTH

from detfuse.ablation.records import Arm, DetectorCost, Plan, Run, Timing
from detfuse.ablation.report.agreement import require_agreement
from detfuse.ablation.report.evidence import collect
from detfuse.ablation.run.runner import Job, score_of, state_of
from detfuse.ablation.storage import PLAN, plan_yaml, read_plan
from detfuse.attention.inserts import Place
from detfuse.errors import UserError
from detfuse.evaluation import annotations_of, read_results
from detfuse.files import run_files as name
from detfuse.files.records import to_plain
from detfuse.necks.topologies import fpn
from detfuse.runs.environment import read_environment, threads_of_runs
from detfuse.statistics.records import Score
from detfuse.training.loggers import MetricsCsv
from detfuse.visualize.graph import Fusion

ARM, SEED = "fpn", 0
RUN = Run(ARM, SEED, Path(), "finished", seconds=3.5)
_PLAN = Plan(
    "necks",
    (Arm(ARM, {"neck": "fpn"}, ()), Arm("pafpn", {"neck": "pafpn"}, ("neck=pafpn",), ("a note",))),
    (SEED, 1),
    ("data=coco",),
    covariates={"pafpn": {"neck.norm": ("none", "batch")}},
    start={ARM: {"P3": 0.5}},
    things={"pafpn": ("neck",)},
)
COST_OF = DetectorCost(
    10, 4, 10**12, (320, 480), 3.5, 3.0, 4.0, Timing(0, "abc", "cpu", 2, "32-true", 3, ((32, 64),), 2)
)
GRAPH = Fusion(fpn((3, 4)), (Place("lateral", "c3->t3", "SE"),), {"t3": 0.5})
METRICS_OF = {"stats": {"mAP": 0.5, "AP50": -1.0}, "per_class": {"cat": {"AP": -1}, "dog": {"AP": 0.5}}}
ENVIRONMENT_OF = {"python": "3.11", "torch": "2.11", "threads": "2", "device": "cpu"}
CURVE = "epoch,step,train/loss,val/mAP\n0,2,1.5,\n0,3,,0.25\n1,5,1.25,\n"


def _scored(folder: Path) -> None:
    run = Run(ARM, SEED, folder, "finished")
    score_of(run)
    require_agreement(
        [run], [Score(ARM, "mAP", {SEED: 0.5}, 0.5, None), Score(ARM, "mAP/cat", {SEED: None}, None, None)]
    )


def _collected(folder: Path) -> None:
    collect(_PLAN, [Run(ARM, SEED, folder, "finished")], annotations_of(TRUTH), read_results)


def _environment(folder: Path) -> None:
    read_environment(folder)
    threads_of_runs([folder])


def _continued(folder: Path) -> None:
    MetricsCsv(folder).log_metrics({"epoch": 1, "train/loss": 1.0, "odd": 2.0}, 4)
    _collected(folder)


def _state(folder: Path) -> None:
    state_of(Job(ARM, SEED, folder, (), ""))


@st.composite
def _yaml(draw: st.DrawFn, text: str) -> bytes:
    content = draw(changed(yaml.safe_load(text)))
    return draw(as_bytes(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)))


READ: dict[str, tuple[st.SearchStrategy[bytes], Callable[[Path], object]]] = {
    PLAN: (_yaml(plan_yaml(_PLAN)), read_plan),
    name.STATE: (json_files({key: value for key, value in to_plain(RUN).items() if key != "folder"}), _state),
    name.COST: (json_files(to_plain(COST_OF)), _collected),
    name.FUSION: (json_files(to_plain(GRAPH)), _collected),
    name.COMMAND: (json_files({"overrides": ["neck=fpn", "seed=0"], "choices": {"neck": "fpn"}}), _collected),
    name.METRICS: (json_files(METRICS_OF), _scored),
    name.PREDICTIONS: (json_files(RESULTS), _collected),
    name.ENVIRONMENT: (json_files(ENVIRONMENT_OF), _environment),
    name.METRICS_CSV: (as_bytes(CURVE), _continued),
    name.FUSION_WEIGHTS: (as_bytes(CURVE), _collected),
}


@pytest.mark.parametrize("file", READ)
def test_whatever_a_file_of_a_run_holds(file: str, tmp_path: Path) -> None:
    contents, read = READ[file]

    @settings(max_examples=settings.default.max_examples // 2)
    @given(contents)
    def holds(content: bytes) -> None:
        (tmp_path / file).write_bytes(content)
        try:
            read(tmp_path)
        except UserError as error:
            assert_told(str(error), file, str(tmp_path))

    holds()
