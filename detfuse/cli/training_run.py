"""``train``: one run from its configuration to its numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from detfuse.attention.inserts import places_of
from detfuse.build import Parts, build_parts, build_trainer, check_stored_config
from detfuse.cli import results
from detfuse.cli.jobs import Invocation
from detfuse.cli.outputs import require_folder
from detfuse.cli.stored_config import resumed
from detfuse.config import TrainSettings, as_stored, brought_up_to_date
from detfuse.errors import UserError
from detfuse.files.records import to_plain
from detfuse.inspect.attention_memory import device_memory, require_fit
from detfuse.inspect.batch_statistics import require_statistics
from detfuse.inspect.summary import summarise
from detfuse.protocols import Scalable
from detfuse.runs import run_folder
from detfuse.runs.environment import environment
from detfuse.training.datamodule import LightningData
from detfuse.training.device import bytes_of
from detfuse.visualize.graph import Fusion, svg
from detfuse.weights.checkpoint import read_checkpoint

_COMMAND = "command.json"
_SIGTERM_EXIT = 143  # 128 + SIGTERM, as shells have it


def run(invocation: Invocation) -> None:
    """Train, evaluate the best or the last checkpoint, write the run folder.

    Raises:
        UserError: whatever the user can put right.
    """
    start = time.monotonic()
    settings = TrainSettings(**{name: invocation.config[name] for name in TrainSettings.__dataclass_fields__})
    _refuse_sweep_of_processes(invocation)
    base = run_folder.base_folder(settings, invocation.typed, multirun=invocation.multirun)
    resume = run_folder.folder_to_resume(settings.resume, base)
    require_folder(resume or base)
    config = _stored(resume, invocation) if resume else invocation.config
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    # before the folder: a mistake leaves nothing behind
    parts = build_parts(config, stage="fit", pretrained=resume is None)
    config = parts.module.config  # with the numbers that were left to the backbone's weights
    folder = resume or _new_folder(settings, base, numbered=settings.name == "auto" or invocation.multirun)
    with run_folder.locked(folder):
        trainer = build_trainer(config, folder)
        _begin(trainer, parts, folder, config, invocation)
        if resume:
            _say(trainer, f"resuming from {folder / run_folder.LAST}")
        _fit(trainer, parts, config["seed"], folder / run_folder.LAST if resume else None)
        _finish(trainer, parts, folder / (run_folder.BEST if settings.evaluate == "best" else run_folder.LAST), folder)
        _say(trainer, f"run folder: {folder}\ntotal time: {_duration(time.monotonic() - start)}")


def _refuse_sweep_of_processes(invocation: Invocation) -> None:
    """Lightning's own launcher starts this command again in every child: the whole sweep, in each of them."""
    devices = invocation.config["trainer"].get("devices", 1)
    single = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if invocation.multirun and not single and not run_folder.is_torchrun():
        raise UserError(
            f"-m with trainer.devices={devices} would start the whole sweep again in every process: use one device, "
            "or start it by torchrun: torchrun --nproc-per-node=N scripts/train.py -m ..."
        )


def _new_folder(settings: TrainSettings, base: Path, *, numbered: bool) -> Path:
    if settings.resume is True and run_folder.start_again(base):
        print(f"{base} ended before its first checkpoint: it begins again")
        return base
    if settings.resume is True and run_folder.is_main_process():
        print(f"resume=true: there is no {base} yet: a new run begins")
    numbered = numbered and settings.resume is False and not settings.overwrite
    return run_folder.claim(base, numbered=numbered, overwrite=settings.overwrite)


def _stored(folder: Path, invocation: Invocation) -> dict[str, Any]:
    """The configuration that a resumed run continues with."""
    source = folder / run_folder.CONFIG
    stored = brought_up_to_date(_read(source, yaml.safe_load))
    # Before the typed settings, which may call private targets: those are the user's own.
    check_stored_config(stored, invocation.directories, source)
    command = folder / _COMMAND
    choices = _read(command, json.loads).get("choices") if command.is_file() else {}
    if not isinstance(choices, dict):
        raise UserError(f"{command}: has no 'choices'; delete the file, or take another copy of the run folder")
    return resumed(as_stored(stored, source, invocation.directories), choices, invocation)


def _read(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A record of a run folder."""
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())}); it was cut or edited") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a mapping; it was cut or edited")
    return content


def _begin(trainer: pl.Trainer, parts: Parts, folder: Path, config: dict[str, Any], invocation: Invocation) -> None:
    """See that it can begin; write what the run is, and show it."""
    smallest = parts.data.smallest_training_batch(trainer.world_size)
    require_statistics(parts.detector, *smallest, processes=trainer.world_size)
    require_fit(
        parts.detector,
        parts.data.largest_batch_shape(),
        parts.data.loader.batch_size,
        dtype_bytes=bytes_of(trainer.precision_plugin),
        available=device_memory(trainer.strategy.root_device),
    )
    if not trainer.is_global_zero:
        return
    results.write_text(folder / run_folder.CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    if not (folder / _COMMAND).is_file():
        results.write_json(folder / _COMMAND, {"overrides": invocation.typed, "choices": invocation.choices})
    results.write_json(folder / "environment.json", environment())
    results.write_text(folder / "summary.txt", summarise(parts.detector, parts.data.largest_inference_size()) + "\n")
    neck = parts.detector.neck
    if neck.graph is not None:
        scales = neck.scales if isinstance(neck, Scalable) else {}
        fusion = Fusion(neck.graph, tuple(places_of(parts.detector)), scales)
        drawing = svg(fusion.graph, invocation.choices["neck"], fusion.attention, scales=fusion.scales)
        results.write_text(folder / "fusion.svg", drawing)
        results.write_json(folder / "fusion.json", to_plain(fusion))
    print(results.header(parts, trainer, folder, config), flush=True)


def _fit(trainer: pl.Trainer, parts: Parts, seed: int, checkpoint: Path | None) -> None:
    # Building may have drawn random numbers, more for one neck than for another: training begins alike for all.
    pl.seed_everything(seed, workers=True, verbose=False)
    try:
        trainer.fit(parts.module, datamodule=LightningData(parts.data), ckpt_path=checkpoint)
    except SIGTERMException:
        raise SystemExit(_SIGTERM_EXIT) from None
    except SystemExit:  # Lightning's answer to an interrupt, without a word
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"resume={trainer.default_root_dir} goes on from the last checkpoint") from None


def _finish(trainer: pl.Trainer, parts: Parts, checkpoint: Path, folder: Path) -> None:
    if not checkpoint.is_file():
        _say(trainer, "no checkpoint was written (trainer.fast_dev_run, or no epoch was run): nothing to evaluate")
        return
    module = results.score(trainer, parts, read_checkpoint(checkpoint))
    if trainer.is_global_zero:
        results.report(module, folder)
        print(f"checkpoint: {checkpoint}")


def _say(trainer: pl.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
