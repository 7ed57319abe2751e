"""What a run folder or a checkpoint from somebody else may make commands do: write beside itself, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detfuse.config import TrainSettings, conf_dir
from detfuse.config.resolve import resolve
from detfuse.data.generators import Shapes, generate
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import default_output
from detfuse.runs.stored import config_to_resume, with_own_data

SMALL = {"num_train": 1, "num_val": 1, "image_size": 32, "min_size": 8.0, "max_size": 16.0, "max_objects": 1}


@pytest.fixture
def config() -> dict[str, Any]:
    return resolve([], TrainSettings).config


def test_generated_data_are_made_where_the_command_keeps_its_own(config: dict[str, Any], tmp_path: Path) -> None:
    stored = {**config, "data": {**config["data"], **SMALL, "root": str(tmp_path / "theirs")}}
    own = {**config, "data": {**config["data"], "root": str(tmp_path / "mine")}}
    assert with_own_data(stored, own) == {**stored, "data": {**stored["data"], "root": str(tmp_path / "mine")}}
    generate(tmp_path / "theirs", Shapes(**SMALL, data_seed=0))  # type: ignore[arg-type]  # one type for all values
    assert with_own_data(stored, own) == stored
    assert not (tmp_path / "mine").exists()


def test_links_out_of_a_run_folder_are_no_places_to_write(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "elsewhere").mkdir()
    invocation = Invocation(config, [], {}, multirun=False, directories=[conf_dir()])
    (folder / "best.ckpt").symlink_to(folder / "checkpoints")
    assert config_to_resume(folder, invocation) == config
    assert default_output(folder / "checkpoints" / "best.ckpt", "evaluation") == folder / "evaluation"
    (folder / "evaluation").symlink_to(tmp_path / "elsewhere")
    (folder / "metrics.csv").symlink_to("/no/such/file")
    for write in (
        lambda: config_to_resume(folder, invocation),
        lambda: default_output(folder / "checkpoints" / "best.ckpt", "evaluation"),
    ):
        with pytest.raises(UserError, match=r"is a symbolic link out of .*run, where files would be written"):
            write()
