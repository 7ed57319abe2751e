"""Every fault of a corpus of broken inputs, put into a real data set, checkpoint or run folder, and what is said of it.

``python tests/end_to_end/test_bad_inputs.py`` writes the table in ``.github/docs/bad_inputs.md``.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from commands import invocation

from detfuse.build import build_data
from detfuse.cli import evaluation_run, training_run
from detfuse.data.splits import DetectionDataModule
from detfuse.errors import UserError
from detfuse.evaluation import CocoEvaluator
from detfuse.evaluation.metrics import UNDEFINED
from detfuse.files.run_files import CONFIG, LAST
from detfuse.runs.invocation import Invocation
from detfuse.runs.stored import trained_detector
from detfuse.weights.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / ".github" / "docs" / "bad_inputs.md"
REJECTED, REPAIRED, ACCEPTED = "rejected-with-clear-error", "repaired-with-warning", "accepted"
SMALL = [
    *("backbone.name=test_resnet", "neck.out_channels=16", "head.num_convs=1", "trainer.max_epochs=1"),
    *("data.num_train=4", "data.num_val=2", "data.image_size=64", "data.max_size=40", "data.loader.batch_size=2"),
    *("data.loader.num_workers=0", "data.transform.short_side=64"),
]


class Row(NamedTuple):
    """One case at one command.

    Attributes:
        case: its name.
        place: where the fault was put, and what met it.
        expected: the category, and what its message must name.
        got: likewise, with what was said.
        wrong: what of the expected is not so.
    """

    case: str
    place: str
    expected: str
    got: str
    said: str
    wrong: list[str]


class Corpus:
    """The cases, and a real run that their faults are put into."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.cases: dict[str, Any] = runpy.run_path(str(script))["CASES"]
        self.folder = folder
        self.canary = str(folder / "CANARY")
        self.run = folder / "runs" / "default" / "real"
        self.train = invocation("train", *SMALL, f"data.root={folder}/data", f"runs_dir={folder}/runs", "name=real")
        training_run.run(self.train)
        self.content: dict[str, Any] = torch.load(self.run / LAST, weights_only=True)
        self.evaluation = invocation("evaluate", "checkpoint=?", f"data.root={folder}/data")
        self.data = invocation(
            "train",
            *("data=coco", "data.root=?", "data.val_annotations=instances.json", "data.val_images=images"),
            *("data.loader.num_workers=0", "data.transform.short_side=32", "data.transform.long_side=64"),
        ).config

    def rows(self) -> Iterator[Row]:
        """All of them, in the corpus' order."""
        yield from (row for name, case in self.cases.items() for row in _OF_KIND[case[0]](self, name))

    def made(self, name: str) -> Path:
        """The folder that the corpus makes of a case; its checkpoints are the real one with the fault."""
        make = self.cases[name][-1]
        folder = self.folder / "cases" / name
        folder.mkdir(parents=True)
        make.__globals__["good_ckpt"] = lambda **changes: {**deepcopy(self.content), **changes}
        make(folder, self.canary)
        return folder

    def row(self, name: str, place: str, meet: Callable[[], str], category: str = "", mentions: Any = None) -> Row:
        """Let a command meet the fault, and compare what it says with what is expected of it."""
        _, expected, _, named, *_ = self.cases[name]
        expected, named = category or expected, named if mentions is None else mentions
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                facts = meet()
                said = [str(warning.message) for warning in caught if str(self.folder) in str(warning.message)]
                got, text = (REPAIRED, " ".join(said)) if said else (ACCEPTED, facts)
            except UserError as error:
                got, text = REJECTED, str(error)
            except Exception as error:
                got, text = "a traceback", f"{type(error).__name__}: {error}"
        wrong = [] if got == expected else [f"expected {expected}, got {got}"]
        wrong += [f"{word!r} is not named" for word in named if word not in text]
        words = f"{expected}: {', '.join(named)}" if named else expected
        for folder in ("cases", "resumed"):
            text = text.replace(f"{self.folder / folder / name}/", "")
        return Row(name, place, words, got, text.replace(f"{self.folder}/", ""), wrong)


# ---- data sets: read and decoded to the end, as every command does


def _data_set(corpus: Corpus, name: str) -> Iterator[Row]:
    folder = corpus.made(name)
    after = {key: value for key, value in corpus.cases[name][4].items() if key in _FACTS}

    def meet() -> str:
        data = build_data({**corpus.data, "data": {**corpus.data["data"], "root": str(folder)}}, size_divisor=32)
        data.setup("validate")
        batches = list(data.val_dataloader())
        assert sum(len(batch.images) for batch in batches) == len(data.ground_truth("val"))
        found = {key: _FACTS[key](corpus, folder, data) for key in after}
        assert found == {key: pytest.approx(value, abs=1e-3) for key, value in after.items()}
        return ", ".join(f"{key}: {value}" for key, value in found.items())

    yield corpus.row(name, "data set, read", meet)


def _perfect(data: DetectionDataModule) -> float:
    truth = data.ground_truth("val")
    columns = zip(truth.images.tolist(), truth.labels.tolist(), truth.boxes.tolist(), strict=True)
    rows = [
        {"image_id": truth.ids[i], "category_id": truth.categories.ids[label], "bbox": box, "score": 0.9}
        for i, label, box in columns
    ]
    return round(CocoEvaluator(truth).evaluate(rows).stats["mAP"], 3)


def _clipped(data: DetectionDataModule) -> list[float]:
    truth = data.ground_truth("val")
    x, y, width, height = truth.boxes[truth.rows(1)][0].tolist()
    return [x, y, x + width, y + height]


def _loss_is_finite(corpus: Corpus, data: DetectionDataModule) -> bool:
    checkpoint = read_checkpoint(corpus.run / LAST)
    detector = trained_detector(checkpoint, checkpoint.config).eval()  # one pixel has no statistics to train on
    terms = [term for batch in data.val_dataloader() for term in detector.loss(batch).values()]
    return bool(torch.stack(terms).isfinite().all())


_FACTS: dict[str, Callable[[Corpus, Path, DetectionDataModule], Any]] = {
    "dropped": lambda _, folder, data: (
        len(json.loads((folder / "instances.json").read_text())["annotations"]) - len(data.ground_truth("val").boxes)
    ),
    "clipped_to": lambda _, folder, data: _clipped(data),
    "images_kept": lambda _, folder, data: len(data.ground_truth("val")),
    "num_classes": lambda _, folder, data: len(data.categories),
    "result_ids": lambda _, folder, data: list(data.categories.ids),
    "map": lambda _, folder, data: (
        "undefined" if CocoEvaluator(data.ground_truth("val")).evaluate([]).stats["mAP"] == UNDEFINED else "0"
    ),
    "perfect_map_about": lambda _, folder, data: _perfect(data),
    "finite_loss": lambda corpus, _, data: _loss_is_finite(corpus, data),
}


# ---- checkpoints: evaluated, and as the last one of a run that goes on

_HEAD = "detector.head.cls_logits.weight"


def _call(content: dict[str, Any], canary: str) -> None:
    content["detfuse"]["config"]["neck"] = {"_target_": "os.system", "command": f"touch '{canary}'"}


def _keep_a_path(content: dict[str, Any], canary: str) -> None:
    content["detfuse"]["config"]["data"]["root"] = Path("/x")


def _widen(content: dict[str, Any], canary: str) -> None:
    weight = content["state_dict"][_HEAD]
    content["state_dict"][_HEAD] = weight.repeat(2, 1, 1, 1)


def _rename(content: dict[str, Any], canary: str) -> None:
    content["state_dict"]["detector.old.weight"] = content["state_dict"].pop(_HEAD)


def _date(content: dict[str, Any], canary: str) -> None:
    content["detfuse"]["version"] = "99.0.0"


def _undate(content: dict[str, Any], canary: str) -> None:
    del content["detfuse"]["version"]


def _keep_weights_only(content: dict[str, Any], canary: str) -> None:
    for key in ("optimizer_states", "lr_schedulers", "callbacks"):
        del content[key]


_OWN: dict[str, tuple[Callable[[dict[str, Any], str], None], list[str]]] = {
    "ckpt_config_target": (_call, ["os.system"]),
    "ckpt_path_object": (_keep_a_path, ["pathlib"]),
    "ckpt_class_mismatch": (_widen, ["head.cls_logits.weight"]),
    "ckpt_renamed_keys": (_rename, ["head.cls_logits.weight"]),
    "ckpt_future_version": (_date, ["99.0.0"]),
    "ckpt_no_version": (_undate, ["version"]),
    "ckpt_weights_only_resume": (_keep_weights_only, ["optimizer"]),
}
"""Faults of what a checkpoint says of itself, where detfuse's say it, and what must be named besides the file."""


def _checkpoint(corpus: Corpus, name: str) -> Iterator[Row]:
    file = corpus.made(name) / "model.ckpt"
    own: list[str] = []
    if name in _OWN:
        change, own = _OWN[name]
        content = deepcopy(corpus.content)
        change(content, corpus.canary)
        torch.save(content, file)
    category = corpus.cases[name][1]
    # what is missing is needed by training alone
    evaluated, said = (ACCEPTED, []) if name == "ckpt_weights_only_resume" else (category, own)
    named = [] if evaluated == ACCEPTED else ["model.ckpt", *said]
    yield corpus.row(name, "checkpoint, evaluated", lambda: _evaluated(corpus, file), evaluated, named)
    run = _copy(corpus, name)
    (run / LAST).unlink()
    if file.is_dir():
        (run / LAST).mkdir()
    else:
        shutil.copy(file, run / LAST)
    named = [] if category == ACCEPTED else ["last.ckpt", *own]
    yield corpus.row(name, "last.ckpt, gone on from", lambda: _resumed(corpus, run), category, named)


def _copy(corpus: Corpus, name: str) -> Path:
    return Path(shutil.copytree(corpus.run, corpus.folder / "resumed" / name))


def _evaluated(corpus: Corpus, checkpoint: Path) -> str:
    output = checkpoint.parent / "evaluation"
    given = corpus.evaluation.config | {"checkpoint": str(checkpoint), "output": str(output)}
    evaluation_run.run(_changed(corpus.evaluation, given))
    return f"{', '.join(sorted(file.name for file in output.glob('*.json')))} written"


def _resumed(corpus: Corpus, run: Path) -> str:
    training_run.run(_changed(corpus.train, corpus.train.config | {"resume": str(run)}))
    return "it goes on"


def _changed(given: Invocation, config: dict[str, Any]) -> Invocation:
    return Invocation(config, [], given.choices, multirun=False, directories=given.directories)


# ---- configurations: of a run that goes on, and in a checkpoint


def _config(corpus: Corpus, name: str) -> Iterator[Row]:
    fault = (corpus.made(name) / "config.yaml").read_text()
    run = _copy(corpus, name)
    real = yaml.safe_load((run / CONFIG).read_text())
    try:
        faulty = _merged(real, yaml.safe_load(fault))
        text = yaml.safe_dump(faulty, sort_keys=False)
    except yaml.YAMLError:  # a tag
        faulty, text = None, yaml.safe_dump({key: real[key] for key in real if f"{key}:" not in fault}) + fault
    (run / CONFIG).write_text(text)
    named = corpus.cases[name][3]
    yield corpus.row(name, "config.yaml, gone on from", lambda: _resumed(corpus, run), mentions=named)
    if faulty is not None:
        content = deepcopy(corpus.content)
        content["detfuse"]["config"] = faulty
        file = corpus.folder / "cases" / name / "model.ckpt"
        torch.save(content, file)
        named = [word.replace("config.yaml", "model.ckpt") for word in named]
        yield corpus.row(name, "checkpoint's, evaluated", lambda: _evaluated(corpus, file), mentions=named)


def _merged(real: Any, fault: Any) -> Any:
    if not isinstance(real, dict) or not isinstance(fault, dict) or "_target_" in fault:
        return fault
    return {**real, **{key: _merged(real.get(key), value) for key, value in fault.items()}}


# ---- reports


def _report(corpus: Corpus, name: str) -> Iterator[Row]:
    yield corpus.row(name, "plan and notes, reported", lambda: _reported(corpus, name, "named"))


def _reported(corpus: Corpus, name: str, what: str) -> str:
    """A report in which a class, or the arms and notes, have the case's name."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "ablation" / "report"))
    from dataclasses import replace

    from fake_ablation import make_ablation

    from detfuse.ablation.report import write_report

    evil = corpus.cases[name][4]["html_must_not_contain"]
    fake = make_ablation(corpus.folder / "reported" / name, num_images=4, size=64, max_size=40, rename={9: evil})
    arms = tuple(replace(arm, notes=(evil,)) for arm in fake.plan.arms)
    plan = replace(fake.plan, name=evil, arms=arms, remarks=(evil,)) if what == "named" else fake.plan
    page = write_report(*replace(fake, plan=plan).arguments)
    written = [page, page.with_suffix(".md"), *page.parent.glob("figures/*.svg")]
    texts = [file.read_text(encoding="utf-8") for file in written]
    code = re.compile(r"^(`{3,})text\n.*?^\1$", re.DOTALL | re.MULTILINE)  # Markdown shows it as it is
    assert all(evil not in code.sub("", text) for text in texts)
    assert any("&lt;script&gt;" in text for text in texts)
    return f"escaped in {len(written)} files"


def _data_set_of_names(corpus: Corpus, name: str) -> Iterator[Row]:
    yield from _data_set(corpus, name)
    if "html_must_not_contain" in corpus.cases[name][4]:
        yield corpus.row(name, "data set, reported", lambda: _reported(corpus, name, "classes"))


_OF_KIND: dict[str, Callable[[Corpus, str], Iterator[Row]]] = {
    "dataset": _data_set_of_names,
    "checkpoint": _checkpoint,
    "config": _config,
    "report": _report,
}


# ---- the table


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| case | put into | expected | got |", "|---|---|---|---|"]
    for row in rows:
        said = f": {_cell(row.said)}" if row.said else ""
        lines.append(f"| {row.case} | {row.place} | {_cell(row.expected)} | {row.got}{said} |")
    return "\n".join(lines) + "\n"


def _cell(text: str, most: int = 300) -> str:
    """One cell's text: code, so that nothing in it is markup."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[: most - 80]} [...] {line[-74:]}"
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


@pytest.mark.filterwarnings("default")
def test_every_fault_is_met_as_it_should_be(shared: Path, tmp_path: Path) -> None:
    corpus = Corpus(shared / "bad_inputs" / "bad_inputs.py", tmp_path)
    rows = list(corpus.rows())
    assert [f"{row.case} ({row.place}): {'; '.join(row.wrong)}: {row.said}" for row in rows if row.wrong] == []
    assert {row.case for row in rows} == set(corpus.cases)
    assert not Path(corpus.canary).exists(), "a payload ran"


def main() -> None:
    """Write the table into the page, below its heading."""
    with tempfile.TemporaryDirectory() as folder:
        script = REPOSITORY.parent / "shared" / "bad_inputs" / "bad_inputs.py"
        rows = list(Corpus(script, Path(folder).resolve()).rows())
    heading = PAGE.read_text(encoding="utf-8").partition("\n| case |")[0]
    PAGE.write_text(f"{heading}\n{table(rows)}", encoding="utf-8")
    print("\n".join(f"{row.case} ({row.place}): {'; '.join(row.wrong)}" for row in rows if row.wrong) or "all right")


if __name__ == "__main__":
    main()
