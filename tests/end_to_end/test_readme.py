"""The README's commands do what they say, with a shortened schedule."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import REPOSITORY, TINY, run

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.split(" #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
TRAINING = [line for line in LINES if re.search(r"(scripts/train\.py|detfuse-train)", line) and "--help" not in line]


def test_the_readme_names_the_two_first_commands() -> None:
    start = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert f"{start} . && .venv/bin/python scripts/train.py" in LINES
    assert f'{start} ".[test]" && .venv/bin/pytest' in LINES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's user works: a COCO folder, and a neck of their own as the README has it."""
    folder = tmp_path_factory.mktemp("readme")
    run("train", *TINY, "trainer.fast_dev_run=true", folder=folder)
    generated = next((folder / "datasets" / "synthetic").glob("shapes-*"))
    (folder / "path").mkdir()
    generated.rename(folder / "path" / "to")
    for name, content in re.findall(r"```yaml\n# (my/\S+)\n(.*?)```", README, flags=re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_of_the_readme(line: str, folder: Path) -> None:
    argv = shlex.split(line.split("&&")[-1])
    given = argv[next(i for i, part in enumerate(argv) if part.endswith(("train.py", "detfuse-train"))) + 1 :]
    of_coco = any(part == "data=coco" for part in given)
    kept = {part.split("=")[0] for part in given}
    short = [part for part in TINY[5 if of_coco else 0 :] if part.split("=")[0] not in kept]
    size = ["data.transform.short_side=64"] if of_coco else []
    run("train", *given, *short, *size, "trainer.fast_dev_run=true", folder=folder)
