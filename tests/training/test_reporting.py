from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest
from pytorch_lightning.loggers import Logger
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from rich.console import Console

from detfuse.training.finite import NonFiniteLossError
from detfuse.training.loggers import MetricsCsv, tensorboard
from detfuse.training.progress import ProgressReport

LINE = re.compile(r"epoch [12]/2  loss \d\.\d{4}  val mAP \S+ AP50 \S+  \d+\.\d img/s  \d+\.\d s/epoch  left \d:\d\d")


def reported(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_outside_a_terminal_each_epoch_is_one_plain_line(fit: Fit) -> None:
    progress = ProgressReport()
    progress.console = Console(file=io.StringIO(), soft_wrap=True)
    fit(callbacks=[progress])
    lines = reported(progress.console).splitlines()
    assert len(lines) == 2
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert lines[-1].endswith("left 0:00")


def test_a_long_epoch_outside_a_terminal_gives_a_sign_of_life(fit: Fit) -> None:
    progress = ProgressReport(line_every=1e-9)
    progress.console = Console(file=io.StringIO(), soft_wrap=True)
    fit(callbacks=[progress], max_epochs=1)
    assert "epoch 1/1  batch 1/4  step 1  loss" in reported(progress.console)


def test_in_a_terminal_a_bar_shows_step_loss_speed_and_time_left(fit: Fit) -> None:
    progress = ProgressReport()
    progress.refresh_per_second = 1000
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    fit(callbacks=[progress])
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", reported(progress.console))
    assert re.search(r"epoch 1/2 .*━.* \d/4 step \d+  loss \d\.\d+  \d+\.\d img/s  left \d:\d\d", text)
    assert "epoch 2/2  loss" in text


def test_undefined_metrics_are_shown_as_such(fit: Fit) -> None:
    progress = ProgressReport()
    progress.console = Console(file=io.StringIO(), soft_wrap=True)
    fit(Quadrants(annotated=False), callbacks=[progress], max_epochs=1)
    assert "val mAP n/a AP50 n/a" in reported(progress.console)


def test_the_bar_is_gone_when_a_run_fails(fit: Fit) -> None:
    progress = ProgressReport()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    module = make_module(Quadrants())
    module.detector.head.predict_logits.weight.data.fill_(math.nan)
    with pytest.raises(NonFiniteLossError):
        fit(module=module, callbacks=[progress])
    assert reported(progress.console).endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the line empty


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_metrics_csv_has_training_and_exact_validation_rows(fit: Fit, tmp_path: Path) -> None:
    module, _ = fit(loggers=[MetricsCsv(tmp_path)], log_every_n_steps=2)
    found = rows(tmp_path)
    assert [row["step"] for row in found if row["train/loss"]] == ["1", "3", "5", "7"]
    scored = [row for row in found if row["val/mAP"]]
    assert [(row["epoch"], row["step"]) for row in scored] == [("0", "4"), ("1", "8")]
    assert module.metrics is not None
    assert float(scored[-1]["val/mAP"]) == module.metrics.stats["mAP"]


def test_a_resumed_run_continues_the_csv_and_takes_back_what_it_repeats(tmp_path: Path) -> None:
    first = MetricsCsv(tmp_path)
    for step in (0, 10, 20):
        first.log_metrics({"train/loss": step / 10}, step)
    first.log_metrics({"val/mAP": 0.5}, 25)
    second = MetricsCsv(tmp_path)
    second.log_metrics({"train/loss": 7.0}, 20)
    second.log_metrics({"val/AP50": 0.25}, 25)
    found = [(row["step"], row["train/loss"], row["val/mAP"], row["val/AP50"]) for row in rows(tmp_path)]
    assert found == [("0", "0.0", "", ""), ("10", "1.0", "", ""), ("20", "7.0", "", ""), ("25", "", "", "0.25")]


def test_a_resumed_run_keeps_the_validation_that_came_before_its_first_step(tmp_path: Path) -> None:
    """Nine steps were taken before that validation, and nine before the row of the tenth."""
    first = MetricsCsv(tmp_path)
    first.log_metrics({"val/mAP": 0.5}, 9)
    first.log_metrics({"train/loss": 3.0}, 9)
    second = MetricsCsv(tmp_path)
    second.log_metrics({"train/loss": 2.0}, 9)
    second.log_metrics({"val/mAP": 0.6}, 18)
    MetricsCsv(tmp_path).log_metrics({"val/mAP": 0.7}, 18)
    found = [(row["step"], row["train/loss"], row["val/mAP"]) for row in rows(tmp_path)]
    assert found == [("9", "", "0.5"), ("9", "2.0", ""), ("18", "", "0.7")]


def test_the_loss_of_accumulated_batches_is_the_one_that_is_logged(fit: Fit) -> None:
    progress = ProgressReport()
    progress.console = Console(file=io.StringIO(), soft_wrap=True)
    _, trainer = fit(Quadrants(num_images=2), callbacks=[progress], max_epochs=1, accumulate_grad_batches=4)
    assert f"loss {float(trainer.callback_metrics['train/loss']):.4f}" in reported(progress.console)


@pytest.mark.parametrize("cut", ["0,1", "0,", "0", "", '0,19,"1'])
def test_a_run_whose_last_line_was_cut_off_goes_on(
    tmp_path: Path, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``0,1`` of ``0,19`` is not step 1."""
    file = tmp_path / "metrics.csv"
    file.write_text(f"epoch,step,train/loss\n0,0,3.5\n0,10,2.5\n0,20,1.5\n{cut}")
    log = MetricsCsv(tmp_path)
    log.log_metrics({"epoch": 0, "train/loss": 2.0}, 20)
    log.log_metrics({"epoch": 0, "val/mAP": 0.5}, 25)
    found = [(row["step"], row["train/loss"], row["val/mAP"]) for row in rows(tmp_path)]
    assert found == [("0", "3.5", ""), ("10", "2.5", ""), ("20", "2.0", ""), ("25", "", "0.5")]
    said = capsys.readouterr().out
    assert said == (f"{file}: left out a line that was cut off or damaged: {cut!r}\n" if cut else "")


@pytest.mark.parametrize("content", ["epo", "epoch,step", ""])
def test_a_run_whose_columns_were_cut_off_begins_the_file_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    MetricsCsv(tmp_path).log_metrics({"epoch": 0, "train/loss": 2.0}, 20)
    assert rows(tmp_path) == [{"epoch": "0", "step": "20", "train/loss": "2.0"}]


def test_damaged_lines_are_told_and_the_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = ["0,1", "0,10,2,5", "0,,2.5", "0,x,2.5", "\0\0\0"]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,train/loss", "0,0,3.5", *broken, "0,15,1.5", ""]))
    MetricsCsv(tmp_path).log_metrics({"train/loss": 2.0}, 20)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "15", "20"]
    said = capsys.readouterr().out
    assert all(repr(line) in said for line in broken)


@pytest.mark.parametrize("content", ["name,value\na,1\n", '"epoch,step\n0,1\n0,2\n'])
def test_a_file_that_is_no_table_of_metrics_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.csv is no table of metrics"):
        MetricsCsv(tmp_path).log_metrics({"train/loss": 2.0}, 20)
    assert (tmp_path / "metrics.csv").read_text() == content


def test_tensorboard_writes_events_into_the_run_folder(fit: Fit, tmp_path: Path) -> None:
    logger: Logger = tensorboard(tmp_path)
    fit(loggers=[logger], max_epochs=1)
    assert [path.name for path in (tmp_path / "tensorboard").glob("events.out.tfevents.*")]


def test_a_later_validation_adds_no_row(fit: Fit, tmp_path: Path) -> None:
    module, trainer = fit(loggers=[MetricsCsv(tmp_path)], max_epochs=1)
    before = rows(tmp_path)
    trainer.validate(module, datamodule=Quadrants(), verbose=False)
    assert rows(tmp_path) == before
