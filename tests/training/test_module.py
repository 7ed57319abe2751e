from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from quadrants import SIZE, Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from torch import Tensor

from detfuse.evaluation import METRICS, CocoEvaluator, rows_of
from detfuse.structures import Batch
from detfuse.training.finite import NonFiniteLossError, NonFiniteOutputError, NonFiniteOutputWarning
from detfuse.training.module import DetectionModule
from detfuse.training.optim import cosine, sgd
from detfuse.training.pictures import Pictures
from detfuse.training.trainer import make_trainer


def test_training_logs_every_term_and_validation_all_metrics(fit: Fit) -> None:
    module, trainer = fit(Quadrants(num_images=4), max_epochs=30)
    logged = trainer.callback_metrics
    assert logged["train/loss"] == pytest.approx(float(logged["train/loss_cls"] + logged["train/loss_box"]))
    assert {"train/lr", "train/grad_norm"} <= logged.keys()
    assert module.metrics is not None
    assert {f"val/{name}" for name in METRICS} <= logged.keys()
    assert float(logged["val/mAP"]) == pytest.approx(module.metrics.stats["mAP"])
    assert module.metrics.stats["AP50"] > 0.3  # it learns


def test_predictions_are_in_the_files_pixels_and_sorted_by_image_id() -> None:
    class Shuffled(Quadrants):
        def batch(self, indices: list[int]) -> Batch:
            plain = super().batch(indices)
            return plain._replace(scales=torch.full((len(indices), 2), 0.5), original_sizes=plain.image_sizes * 2)

        def train_dataloader(self) -> Any:
            return self.loader_of([[3, 1], [2, 0]])

    data = Shuffled(num_images=4)
    module = make_module(data)
    trainer = make_trainer(".", [], [], accelerator="cpu")
    trainer.validate(module, datamodule=data, verbose=False)
    rows = predicted(module)
    assert [row["image_id"] for row in rows] == [0] * 4 + [10] * 4 + [20] * 4 + [30] * 4
    assert {row["category_id"] for row in rows} <= {3, 7}
    boxes = sorted(row["bbox"] for row in rows[:4])
    assert boxes == [[0, 0, SIZE, SIZE], [0, SIZE, SIZE, SIZE], [SIZE, 0, SIZE, SIZE], [SIZE, SIZE, SIZE, SIZE]]


def predicted(module: DetectionModule) -> list[dict[str, Any]]:
    assert module.predictions is not None
    return list(rows_of(module.predictions))


class Named(Quadrants):
    """Images whose file calls them by texts, in another order than that of their numbers."""

    def ground_truth(self) -> dict[str, Any]:
        truth = super().ground_truth()
        images = [record | {"id": name_of("val", record["id"])} for record in truth["images"]]
        annotations = [record | {"image_id": name_of("val", record["image_id"])} for record in truth["annotations"]]
        return {**truth, "images": images, "annotations": annotations}


def name_of(split: str, number: int) -> str:
    return f"{split}/{99 - number:04}"


def test_what_a_person_sees_has_the_files_own_ids(fit: Fit, tmp_path: Path) -> None:
    plain, _ = fit()
    data = Named()
    named = make_module(data, image_id_of=name_of)
    fit(data, module=named, callbacks=[Pictures(train_batches=0, val_images=2)])
    assert [r["image_id"] for r in predicted(named)] == [name_of("val", r["image_id"]) for r in predicted(plain)]
    assert named.metrics == plain.metrics
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"val_val%2F0099.jpg", "val_val%2F0089.jpg"}
    poison(named, math.nan, step=0)
    with pytest.raises(NonFiniteLossError, match=r"images 'train/0099', 'train/0089'; finite"):
        fit(data, module=named)


def poison(module: Any, value: float, *, step: int) -> None:
    plain, calls = module._loss, iter(range(1000))

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = plain(batch)
        return {**terms, "loss_box": terms["loss_box"] * (value if next(calls) == step else 1.0)}

    module._loss = loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_stops_the_run_and_the_last_checkpoint_stays(fit: Fit, tmp_path: Path, value: float) -> None:
    module = make_module(Quadrants())
    poison(module, value, step=6)
    with pytest.raises(NonFiniteLossError, match=r"loss_box = (nan|inf) at step 6 \(epoch 2\), images 40, 50; finite"):
        fit(module=module, max_epochs=3)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 4


def test_a_validation_without_a_finite_output_stops_the_run(fit: Fit) -> None:
    """Statistics that broke show in evaluation only: the loss is finite."""
    module = make_module(Quadrants())
    module.on_validation_epoch_start = lambda: module.detector.backbone.norm.running_var.fill_(math.nan)
    told = r"NaN or infinite in 8 of 8 validation images \(ids 0, 10, 20, 30.*a lower optimizer.lr"
    with pytest.raises(NonFiniteOutputError, match=told):
        fit(module=module)


def test_outputs_that_are_not_finite_in_some_images_are_told_once(fit: Fit) -> None:
    module = make_module(Quadrants())

    def overflow(head: Any, features: Any, outputs: Any) -> Any:
        if head.training:
            return outputs
        return outputs._replace(logits=outputs.logits.clone().index_fill_(0, torch.tensor([0]), math.nan))

    module.detector.head.register_forward_hook(overflow)
    told = r"in 4 of 8 validation images \(ids 0, 20, 40, 60\).*count these images with what is left"
    with pytest.warns(NonFiniteOutputWarning, match=told) as caught:
        fit(module=module, max_epochs=1)
    assert len(caught) == 1
    assert {row["image_id"] for row in predicted(module)} == {10, 30, 50, 70}
    assert module.metrics is not None


def test_clipping_bounds_the_norm_of_the_whole_gradient(fit: Fit) -> None:
    module = make_module(Quadrants())
    module._optimizer = partial(sgd, lr=0.5, reference_batch=None, momentum=0.0, weight_decay=0.0)
    module._scheduler = partial(cosine, warmup_steps=0)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module=module, callbacks=[], gradient_clip_val=0.01, max_steps=1)
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in module.named_parameters()])
    assert float(moved.norm()) == pytest.approx(0.5 * 0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 12),
        ({"max_epochs": 3, "max_steps": 5}, 5),
        ({"max_epochs": 3, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 4),
        ({"max_epochs": -1, "max_steps": 7}, 7),
    ],
)
def test_the_schedule_spans_exactly_the_run(
    fit: Fit, options: dict[str, Any], steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    module, trainer = fit(callbacks=[], limit_val_batches=0, **options)
    assert module.length().steps == trainer.global_step == steps
    images = 2 * options.get("accumulate_grad_batches", 1)
    assert f"SGD: {steps} steps of {images} images, learning rate 0.1\n" in capsys.readouterr().out
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_a_run_without_an_end_is_refused(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_epochs or trainer\.max_steps"):
        fit(max_epochs=-1)


def test_an_evaluation_repeats_the_validation_of_training_bit_for_bit(fit: Fit, tmp_path: Path) -> None:
    module, _ = fit()
    data = Quadrants()
    again = make_module(data)
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    again.load_state_dict(stored["state_dict"])
    make_trainer(tmp_path, [], [], accelerator="cpu").validate(again, datamodule=data, verbose=False)
    assert again.metrics == module.metrics
    assert predicted(again) == predicted(module)


def test_without_an_evaluator_validation_collects_predictions(fit: Fit) -> None:
    module = make_module(Quadrants())
    module.evaluator = None
    fit(module=module, max_epochs=1)
    assert module.metrics is None
    assert len(predicted(module)) == 32


def test_an_image_predicted_twice_counts_once(fit: Fit) -> None:
    class Twice(Quadrants):
        def val_dataloader(self) -> Any:
            return self.loader_of([[0, 1], [2, 3], [0, 1]])

    once, _ = fit(Quadrants(num_images=4), callbacks=[])
    data = Twice(num_images=4)
    module = make_module(data)
    module.evaluator = CocoEvaluator(data.ground_truth())
    twice, _ = fit(data, module, callbacks=[])
    assert predicted(twice) == predicted(once)


def test_bf16_trains_and_the_losses_stay_float32(fit: Fit) -> None:
    module, trainer = fit(precision="bf16-mixed", max_epochs=1)
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert module.metrics is not None
