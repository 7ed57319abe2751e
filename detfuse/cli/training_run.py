"""``train``: one run from its configuration to its numbers."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from detfuse.attention.inserts import places_of
from detfuse.build import Parts, build_parts, build_trainer
from detfuse.config import TrainSettings
from detfuse.errors import UserError
from detfuse.files.records import to_plain
from detfuse.files.run_files import ANOMALY, BEST, COMMAND, CONFIG, ENVIRONMENT, FUSION, FUSION_DRAWING, LAST, SUMMARY
from detfuse.files.text import write_json, write_text
from detfuse.inspect.attention_memory import device_memory, require_fit
from detfuse.inspect.batch_statistics import require_statistics
from detfuse.inspect.summary import summarise
from detfuse.protocols import Scalable
from detfuse.runs import run_folder
from detfuse.runs.environment import environment
from detfuse.runs.header import header
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import require_folder
from detfuse.runs.resumption import resumption
from detfuse.runs.run_folder import Held
from detfuse.runs.scoring import report, require_one_process, score
from detfuse.runs.starting import source_of, told
from detfuse.runs.stored import config_to_resume
from detfuse.training.datamodule import LightningData
from detfuse.training.device import bytes_of
from detfuse.training.narrow_maps import widen_narrow_maps
from detfuse.training.replay import replay
from detfuse.training.signals import Stopped, requeue
from detfuse.visualize.graph import Fusion, svg
from detfuse.weights.checkpoint import read_checkpoint

_SIGTERM_EXIT = 143  # 128 + SIGTERM, as shells have it


def run(invocation: Invocation) -> None:
    """Train, evaluate the best or the last checkpoint, write the run folder.

    What is refused before the first step leaves nothing behind, and leaves a run alone that was to be overwritten.

    Raises:
        UserError: whatever the user can put right.
    """
    start = time.monotonic()
    settings = TrainSettings.of(invocation.config)
    _refuse_sweep_of_processes(invocation)
    base = run_folder.base_folder(settings, invocation.typed, multirun=invocation.multirun, swept=invocation.swept)
    if settings.debug == "anomaly":
        _replay(base if isinstance(settings.resume, bool) else Path(settings.resume).expanduser(), invocation)
        return
    resume = run_folder.folder_to_resume(settings.resume, base)
    require_folder(resume or base)
    config = config_to_resume(resume, invocation) if resume else invocation.config
    begun = resumption(resume, invocation.directories) if resume else None
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    source = source_of(config, invocation) if resume is None else None
    parts = build_parts(config, stage="fit", pretrained=resume is None, start=source)
    if begun:
        begun.require_same(parts.data, config)
        begun.require_fit(parts.detector)
    config = parts.module.config  # with the numbers that were left to the backbone's weights
    numbered = settings.name == "auto" or invocation.multirun
    with run_folder.locked(resume) if resume else _new(settings, base, numbered=numbered) as held:
        folder = held.path
        trainer = build_trainer(config, folder)
        _require_possible(trainer, parts)
        if begun:
            begun.require_processes(trainer.world_size)
        if settings.overwrite:
            held.empty()
        if trainer.is_global_zero:
            _write_what_it_is(parts, folder, config, invocation)
            print(header(parts, trainer, folder, config), flush=True)
        if source is not None:
            _say(trainer, told(source, parts, trainer, folder))
        if begun:
            _say(trainer, f"resuming from {begun.checkpoint} ({begun})")
        if begun and begun.is_finished(config):
            _say(trainer, "this run has finished, and is only scored again; a higher trainer.max_epochs= trains on")
        try:
            _fit(trainer, parts, config["seed"], held, begun.checkpoint if begun else None)
            _finish(trainer, parts, settings.evaluate, folder)
        except Stopped as stop:
            _tell_stop(trainer, stop, folder)
            raise
        _say(trainer, f"run folder: {folder}\ntotal time: {_duration(time.monotonic() - start)}")


def _replay(folder: Path, invocation: Invocation) -> None:
    """Compute the step again at which a run stopped, and print where it breaks; the run stays as it is."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"debug=anomaly: {folder} is no run folder: name one by resume=")
    config = config_to_resume(folder, invocation)
    parts = build_parts(config, stage="fit", pretrained=False)
    trainer = build_trainer(config, folder, bare=True)
    detector = parts.detector.to(trainer.strategy.root_device)
    widen_narrow_maps(detector, str(trainer.precision))
    for line in replay(folder, detector, detector.loss, trainer.precision_plugin.forward_context):
        print(line, flush=True)


def _refuse_sweep_of_processes(invocation: Invocation) -> None:
    """Lightning's own launcher starts this command again in every child: the whole sweep, in each of them."""
    devices = invocation.config["trainer"].get("devices", 1)
    single = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if invocation.multirun and not single and not run_folder.is_torchrun():
        raise UserError(
            f"-m with trainer.devices={devices} would start the whole sweep again in every process: use one device, "
            "or start it by torchrun: torchrun --nproc-per-node=N scripts/train.py -m ..."
        )


def _new(settings: TrainSettings, base: Path, *, numbered: bool) -> AbstractContextManager[Held]:
    if settings.resume is True and run_folder.start_again(base):
        print(f"{base} ended before its first checkpoint: it begins again")
        return run_folder.locked(base)
    if settings.resume is True and run_folder.is_main_process():
        print(f"resume=true: there is no {base} yet: a new run begins")
    numbered = numbered and settings.resume is False and not settings.overwrite
    return run_folder.claimed(base, numbered=numbered, overwrite=settings.overwrite)


def _require_possible(trainer: pl.Trainer, parts: Parts) -> None:
    """See that a step can be made and remembered, as far as that shows beforehand."""
    require_one_process(trainer, parts.module.config)
    smallest = parts.data.smallest_training_batch(trainer.world_size)
    require_statistics(parts.detector, *smallest, processes=trainer.world_size)
    require_fit(
        parts.detector,
        parts.data.largest_batch_shape(),
        parts.data.loader.batch_size,
        dtype_bytes=bytes_of(trainer.precision_plugin),
        available=device_memory(trainer.strategy.root_device),
    )


def _write_what_it_is(parts: Parts, folder: Path, config: dict[str, Any], invocation: Invocation) -> None:
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    if not (folder / COMMAND).is_file():
        write_json(folder / COMMAND, {"overrides": invocation.typed, "choices": invocation.choices})
    write_json(folder / ENVIRONMENT, environment())
    write_text(folder / SUMMARY, summarise(parts.detector, parts.data.largest_inference_size()) + "\n")
    neck = parts.detector.neck
    if neck.graph is not None:
        scales = neck.scales if isinstance(neck, Scalable) else {}
        fusion = Fusion(neck.graph, tuple(places_of(parts.detector)), scales)
        drawing = svg(fusion.graph, invocation.choices["neck"], fusion.attention, scales=fusion.scales)
        write_text(folder / FUSION_DRAWING, drawing)
        write_json(folder / FUSION, to_plain(fusion))


def _fit(trainer: pl.Trainer, parts: Parts, seed: int, held: Held, checkpoint: Path | None) -> None:
    # Building may have drawn random numbers, more for one neck than for another: training begins alike for all.
    pl.seed_everything(seed, workers=True, verbose=False)
    try:
        trainer.fit(parts.module, datamodule=LightningData(parts.data), ckpt_path=checkpoint)
    except SIGTERMException:  # Lightning's, where no checkpoints are written
        raise SystemExit(_SIGTERM_EXIT) from None
    except Stopped:
        raise
    except SystemExit:  # Lightning's answer to an interrupt, without a word
        if not trainer.interrupted:
            raise
        can_continue = run_folder.can_continue(held.path)
        raise KeyboardInterrupt(
            f"resume={held.path} goes on from the last checkpoint" if can_continue else "before its first checkpoint"
        ) from None
    finally:
        held.stays = held.stays or trainer.global_step > 0 or (held.path / ANOMALY).is_file()


def _tell_stop(trainer: pl.Trainer, stop: Stopped, folder: Path) -> None:
    saved = f"{stop.signal.name}: saved {folder / LAST} at step {trainer.global_step}"
    _say(trainer, f"{saved}; the same command with resume=true goes on from there")
    if stop.signal.name == "SIGUSR1" and trainer.is_global_zero:
        print(requeue(os.environ), flush=True)


def _finish(trainer: pl.Trainer, parts: Parts, evaluate: str, folder: Path) -> None:
    checkpoint = folder / (BEST if evaluate == "best" else LAST)
    if not checkpoint.is_file() and not run_folder.can_continue(folder):
        _say(trainer, "no checkpoint was written (trainer.fast_dev_run, or no epoch was run): nothing to evaluate")
        return
    if not checkpoint.is_file():
        checkpoint, gone = folder / run_folder.checkpoint_of(folder), checkpoint
        _say(trainer, f"{gone} is gone, and {checkpoint} is scored in its place")
    scored = score(trainer, parts, read_checkpoint(checkpoint))
    if trainer.is_global_zero:
        report(scored, folder, parts.data, checkpoint)


def _say(trainer: pl.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
