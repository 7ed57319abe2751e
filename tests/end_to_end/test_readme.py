"""The commands of the README and of the page on the classical picture do what they say, with a shortened schedule."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import REPOSITORY, TINY, invocation, run

from detfuse.cli import COMMANDS, training_run
from detfuse.config import TrainSettings, check

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BRIEF = (REPOSITORY / ".github" / "BRIEF.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README + BRIEF, flags=re.DOTALL)
CONCEPTS = re.findall(r"^\|[^|`]*\| `(neck=[^`]*)` \|", BRIEF, flags=re.MULTILINE)
LINES = [line.split(" #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
TRAINING = [line for line in LINES if re.search(r"(scripts/train\.py|detfuse-train)", line) and "--help" not in line]


def test_the_readme_names_the_two_first_commands() -> None:
    start = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert f"{start} . && .venv/bin/python scripts/train.py" in LINES
    assert f'{start} ".[test]" && .venv/bin/pytest' in LINES


def test_every_concept_of_the_brief_has_its_command() -> None:
    rows = [row for row in BRIEF.splitlines() if row.startswith("| ") and "train.py" not in row]
    assert len(CONCEPTS) == len(rows) > 20


OTHERS = [
    (line, found[1]) for line in LINES if (found := re.search(r"scripts/(\w+)\.py", line)) and found[1] != "train"
]


@pytest.mark.parametrize(("line", "command"), OTHERS)
def test_other_commands_of_the_readme_are_right(
    line: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they do is tested where they are; here, that the README writes nothing that they would refuse."""
    monkeypatch.chdir(folder)
    argv = shlex.split(line)
    given = argv[argv.index(f"scripts/{command}.py") + 1 :]
    if command == "data":  # a family: the first argument names the command
        command = given.pop(0)
    assert command == "benchmark" or check(given, COMMANDS[command].settings) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's user works: a COCO folder, and a neck of their own as the README has it."""
    folder = tmp_path_factory.mktemp("readme")
    run("train", *TINY, "name=defaults", "trainer.max_epochs=1", folder=folder)  # the run that the README continues
    generated = next((folder / "datasets" / "synthetic").glob("shapes-*"))
    (folder / "path").mkdir()
    generated.rename(folder / "path" / "to")
    for name, content in re.findall(r"```yaml\n# (my/\S+)\n(.*?)```", README, flags=re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_of_the_readme(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    argv = shlex.split(line.split("&&")[-1])
    given = argv[next(i for i, part in enumerate(argv) if part.endswith(("train.py", "detfuse-train"))) + 1 :]
    if any(part.startswith("resume=") for part in given):
        run("train", *given, folder=folder)  # with the small data and detector of its run
        return
    of_coco = any(part == "data=coco" or part.startswith("experiment=") for part in given)
    run("train", *given, *shortened(given, *(["data.limit_images=2"] if of_coco else [])), folder=folder)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_concept_of_the_brief_trains(concept: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: how a command begins is the same for all."""
    monkeypatch.chdir(folder)
    given = shlex.split(concept)
    assert check(given, TrainSettings) == []
    training_run.run(invocation("train", *given, *shortened(given)))


def shortened(given: list[str], *more: str) -> list[str]:
    """Overrides that make of a training command one of a step on small data, as far as it has what they are about."""
    small = [*TINY, "data.loader.batch_size=2", "trainer.fast_dev_run=true", *more]
    typed = {part.split("=")[0] for part in given}
    own_backbone = typed & {"backbone", "experiment"}
    short = [
        part
        for part in small
        if part.split("=")[0] not in typed and not (own_backbone and part.startswith("backbone."))
    ]
    if check([*given, *short], TrainSettings):
        short = [part for part in short if not check([*given, part], TrainSettings)]
    return short
