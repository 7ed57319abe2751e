"""The detector as Lightning trains and validates it: where losses, predictions, metrics and checkpoints meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import detfuse
from detfuse.annotations import Results
from detfuse.data.layout import Split
from detfuse.detector import Detector
from detfuse.errors import InputError
from detfuse.evaluation.coco import CocoEvaluator, coco_results
from detfuse.evaluation.metrics import CocoMetrics
from detfuse.protocols import Combine
from detfuse.structures import Batch, Categories, Detections, ImageId
from detfuse.training.datamodule import TrainingData
from detfuse.training.finite import (
    NonFiniteLossError,
    finite_results,
    first_broken,
    non_finite_gradient,
    non_finite_loss,
    non_finite_state,
    not_finite,
)
from detfuse.training.length import Length, run_length
from detfuse.training.narrow_maps import widen_narrow_maps
from detfuse.training.optim import describe_rates
from detfuse.training.replay import dump
from detfuse.training.resuming import remember_pretrained, restore

OptimizerFactory = Callable[[torch.nn.Module, int], Optimizer]
"""(module, images per optimizer step) -> optimizer."""

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
"""(optimizer, optimizer steps of the run) -> schedule, stepped once per optimizer step."""

ImageIdOf = Callable[[Split, int], ImageId]
"""(split, number in ``Batch.image_ids``) -> the annotation file's own id."""


def _number_itself(split: Split, number: int) -> ImageId:
    return number


class DetectionModule(pl.LightningModule):
    """Trains a detector on ``Batch`` es and scores it with COCO mAP.

    Logs ``train/loss``, every term as ``train/<term>``, ``train/lr``, ``train/grad_norm`` (if clipped) and the
    validation metrics as ``val/mAP``, ``val/AP50`` ... (-1: undefined). Predictions are gathered by image id and
    scored once for the whole data set, so that the number of processes changes no bit of the result.

    Args:
        detector: what is trained; its loss and its predictions.
        combine: how candidates become detections.
        evaluator: scores predictions in COCO form; None: validation only collects predictions.
        categories: the data set's category map.
        config: the resolved configuration as plain containers; travels in the checkpoint.
        optimizer: factory, see :mod:`detfuse.training.optim`.
        scheduler: factory, see :mod:`detfuse.training.optim`.
        image_id_of: what the data set calls an image; its batches' numbers themselves, if that is not given.
        channels_last: keep weights and images in the memory format that convolutions prefer.
        compile: compile the loss and the forward pass with ``torch.compile``, as one graph where the head allows it.

    Attributes:
        predictions: results of the last validation, in the order of the data set's images, with the file's own ids;
            on every process. None before the first one.
        metrics: metrics of the last validation; None before the first one. On every process.
    """

    def __init__(
        self,
        detector: Detector,
        combine: Combine,
        evaluator: CocoEvaluator | None,
        categories: Categories,
        config: dict[str, Any],
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        image_id_of: ImageIdOf = _number_itself,
        *,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002  the word that users know from torch
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # see detfuse.training.loops
        self.channels_last = channels_last
        self.compiled = compile
        self.detector = detector.to(memory_format=self.memory_format)
        self.combine = combine
        self.evaluator = evaluator
        self.categories = categories
        self.config = config
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.image_id_of = image_id_of
        self._loss: Callable[[Batch], dict[str, Tensor]] = detector.loss
        self._detections: dict[int, Detections] = {}
        self._step: list[Batch] = []  # of the optimizer step that is being made
        self._draws = 0  # seed of its last batch
        self.predictions: Results | None = None
        self.metrics: CocoMetrics | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def setup(self, stage: str) -> None:
        """Compile, in the process that will run the graphs."""
        if self.compiled and self._loss == self.detector.loss:
            # The number of shapes is bounded only by the data set: from the second one on, sizes are symbols.
            fullgraph = self.detector.head.compilable
            self._loss = torch.compile(self.detector.loss, fullgraph=fullgraph)
            self.detector.compile(fullgraph=fullgraph)

    def _formatted(self, batch: Batch) -> Batch:
        return batch._replace(images=batch.images.contiguous(memory_format=self.memory_format))

    # ---- training

    def on_fit_start(self) -> None:
        """See to what torch and DDP would get wrong.

        DDP is kept from broadcasting buffers before every forward pass: Lightning validates through the DDP wrapper, so
        processes with different numbers of validation batches would wait for each other for ever.
        :meth:`on_validation_start` broadcasts instead; in training the first process's statistics, which are the ones
        stored, are the same either way.
        """
        widen_narrow_maps(self.detector, str(self.trainer.precision))
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.broadcast_buffers = False

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random draws of a step (dropout, stochastic depth) by seed, epoch, batch and process.

        Without it two detectors that draw differently often would part from the first step on; so runs under one seed
        stay paired, and a resumed run draws as one that was never stopped.
        """
        entropy = [self.config["seed"], self.current_epoch, batch_idx, self.global_rank]
        self._draws = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        torch.manual_seed(self._draws)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the detector's weighted loss terms.

        Raises:
            NonFiniteLossError: before the weights are touched, if a term is NaN or infinite.
        """
        self._step.append(batch)
        terms = self._loss(self._formatted(batch))
        total = torch.stack(list(terms.values())).sum()
        if not math.isfinite(total.item()):
            where = first_broken(self.detector, lambda: self._loss_again(batch))
            values = {name: term.item() for name, term in terms.items()}
            precision = str(self.trainer.precision)
            raise self._dumped(
                non_finite_loss(values, self._now(), self._images([batch]), where=where, precision=precision)
            )
        rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict({"train/loss": total.detach(), **logged, "train/lr": rate})
        return total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Refuse a gradient or statistics that are not finite; clip the norm of the whole gradient, and log it.

        Lightning calls it before every optimizer step, whether it is to clip or not.

        Raises:
            NonFiniteLossError: before the weights are touched. Not where a loss scale (``16-mixed``) makes the gradient
                overflow, which is how it finds its size: such a step is left out.
        """
        gradients = {name: p.grad for name, p in self.detector.named_parameters() if p.grad is not None}
        # Not `clip_grad_norm_`, after which a gradient that was not finite anywhere is so everywhere.
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        largest = torch.nn.utils.get_total_norm(list(self._statistics.values()), norm_type=math.inf).to(norm.device)
        if not bool(torch.stack([norm.float(), largest.float()]).isfinite().all()):
            self._refuse(gradients, norm.item())
        self._step.clear()
        if gradient_clip_val:
            # Lightning refuses a fused optimizer under bf16-mixed too, which has no loss scale and clips as 32-true.
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)
            self.log("train/grad_norm", norm)

    def _refuse(self, gradients: dict[str, Tensor], norm: float) -> None:
        images = self._images(self._step)
        if broken := not_finite(self._statistics):
            raise self._dumped(non_finite_state(broken, self._now(), images))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None or scaler.get_scale() <= 1:  # at 1 nothing is scaled up any more
            precision = str(self.trainer.precision)
            raise self._dumped(non_finite_gradient(gradients, norm, self._now(), images, precision=precision))

    @cached_property
    def _statistics(self) -> dict[str, Tensor]:
        """What of the detector's state no gradient changes, such as the running statistics of norms.

        They are asked for in training only, when the detector has come to its device.
        """
        learnt = {name for name, _ in self.detector.named_parameters()}
        buffers = dict(self.detector.named_buffers())
        return {
            name: buffers[name]
            for name in self.detector.state_dict()
            if name in buffers and name not in learnt and buffers[name].is_floating_point()
        }

    def _images(self, batches: Sequence[Batch]) -> list[ImageId]:
        return [self.image_id_of("train", number) for batch in batches for number in batch.image_ids.tolist()]

    def _loss_again(self, batch: Batch) -> dict[str, Tensor]:
        """Not compiled, so that each layer is seen."""
        with self.trainer.precision_plugin.forward_context():
            return self.detector.loss(self._formatted(batch))

    def _dumped(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """The error, when what it is about has been written into the run folder."""
        dump(Path(self.trainer.default_root_dir), self.detector, self._step[-1], self._now(), self._draws)
        return error

    def _now(self) -> str:
        return f"step {self.global_step} (epoch {self.current_epoch + 1})"

    # ---- validation

    def on_validation_start(self) -> None:
        """Give every process the norm statistics of the first one, which are those in the checkpoint.

        Training leaves each process with statistics of its own share of the images.
        """
        if _distributed():
            weights = {name for name, _ in self.detector.named_parameters()}
            for name, value in self.detector.state_dict().items():
                if name not in weights:
                    dist.broadcast(value, src=0)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation's predictions."""
        self._detections = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Detections]]:
        """``detections`` in pixels of the resized images; keeps them in pixels of the files."""
        batch = self._formatted(batch)
        detections = self.detector.predict(batch.images, batch.image_sizes, self.combine)
        for i, number in enumerate(batch.image_ids.tolist()):
            in_file = detections[i].to_original(batch.scales[i], batch.original_sizes[i])
            self._detections[number] = Detections(*(column.cpu() for column in in_file))
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Gather predictions by image id and score them, once for all processes.

        Warns:
            NonFiniteOutputWarning: if the detector's outputs are not finite in some images.

        Raises:
            NonFiniteOutputError: if they are finite in no image.
        """
        numbered = Results.joined(_gathered(coco_results(self._detections, self.categories)))
        self._detections = {}
        self.predictions = told(numbered, self.image_id_of, str(self.trainer.precision))
        if self.evaluator is None:
            return
        # One process scores and tells the others: they must agree to the last bit on which checkpoint is best.
        metrics = self.evaluator.evaluate(self.predictions) if self.trainer.is_global_zero else None
        self.metrics = self.trainer.strategy.broadcast(metrics)
        self._log_metrics()

    def _log_metrics(self) -> None:
        assert self.metrics is not None
        values = {f"val/{name}": float(value) for name, value in self.metrics.stats.items()}
        # Equal on every process, so the maximum changes nothing; the mean would round.
        self.log_dict(values, logger=False, sync_dist=_distributed(), reduce_fx="max")
        if self.trainer.state.fn == "fit":  # a later `trainer.validate` is not a point of the training curve
            for logger in self.trainer.loggers:  # directly: `self.log` would round to float32
                logger.log_metrics({**values, "epoch": self.current_epoch}, step=self.global_step)
                logger.save()

    # ---- optimizer

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule for the real batch and the real number of steps, and say what they are.

        Raises:
            ValueError: for settings that cannot work together.
        """
        length = self.length()
        optimizer = self._optimizer(self.detector, length.batch)
        if self.trainer.precision == "16-mixed" and self.trainer.gradient_clip_val and optimizer.defaults.get("fused"):
            raise InputError(
                "trainer.precision=16-mixed cannot clip gradients before a fused optimizer step: "
                "add optimizer.fused=false, or use trainer.precision=bf16-mixed"
            )
        self._announce(
            f"{type(optimizer).__name__}: {length.steps} steps of {length.batch} images, "
            f"learning rate {describe_rates(optimizer)}"
        )
        schedule = self._scheduler(optimizer, length.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @rank_zero_only
    def _announce(self, text: str) -> None:
        print(text, flush=True)

    def length(self) -> Length:
        """The length of the whole run, for each of its processes."""
        data: TrainingData | None = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise InputError(
                "training needs a data module that knows its batches: call trainer.fit(module, datamodule=...)"
            )
        return run_length(self.trainer, data)

    # ---- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what evaluation needs besides the weights, in plain containers.

        Raises:
            NonFiniteLossError: instead of storing weights, an average of them or statistics that are not finite.
        """
        stored = checkpoint.setdefault("detfuse", {"ema": None})  # the EMA callback comes first
        stored.update(version=detfuse.__version__, config=self.config, categories=self.categories.as_dict())
        remember_pretrained(self.detector, stored)
        averaged = {f"average of {name}": value for name, value in (stored["ema"] or {}).items()}
        if broken := not_finite({**checkpoint["state_dict"], **averaged}):
            raise non_finite_state(broken, self._now())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what a resumed run goes on with; refuse a checkpoint of other categories.

        Raises:
            ValueError: if the checkpoint was trained on other categories, or on the same in another order; or, of an
                older version, at rates that parts of the backbone no longer have.
        """
        stored = Categories.from_dict(checkpoint["detfuse"]["categories"])
        if stored != self.categories:
            raise InputError(
                f"the checkpoint was trained on the categories {', '.join(stored.names)} (ids {list(stored.ids)}), "
                f"the data set has {', '.join(self.categories.names)} (ids {list(self.categories.ids)})"
            )
        restore(self.detector, checkpoint)


def told(numbered: Results, image_id_of: ImageIdOf, precision: str) -> Results:
    """Results of the validation split as they are scored and written: under the file's own ids, all of them finite.

    Args:
        numbered: with the numbers of the images in their batches.
        image_id_of: what the data set calls an image.
        precision: in which the detector computed, for people.

    Warns:
        NonFiniteOutputWarning: if the detector's outputs are not finite in some images.

    Raises:
        NonFiniteOutputError: if they are finite in no image.
    """
    ids = tuple(image_id_of("val", int(number)) for number in numbered.ids)
    return finite_results(replace(numbered, ids=ids), precision)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gathered(results: Results) -> list[Results]:
    """Of all processes."""
    if not _distributed():
        return [results]
    shares: list[Results] = [results] * dist.get_world_size()
    dist.all_gather_object(shares, results)
    return shares
