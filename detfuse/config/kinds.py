"""What kind a setting of a run is: the one table.

From it follows what makes a run's name, what a resumed run may change, what evaluation takes from its own machine, and
what may differ between two arms without a word.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["science", "data", "machine", "place", "display"]
"""What depends on a setting.

* ``science``: the results.
* ``data``: where the data lie. The same data may lie elsewhere, so it is no part of a name; other data may lie there,
  so a resumed run compares their content, and two arms that differ in it are no pair.
* ``machine``: on what is computed. Results may depend on it by rounding, and by the size of the whole batch.
* ``place``: where the run lies, and whether it begins or goes on.
* ``display``: what is told and kept on the way. No result depends on it.
"""

KINDS: dict[str, Kind] = {
    "seed": "science",
    "evaluate": "science",
    "init_from": "science",
    **dict.fromkeys(("project", "name", "runs_dir", "overwrite", "resume", "hydra"), "place"),
    **dict.fromkeys(("experiment", "backbone", "neck", "operator", "resample", "attention", "head"), "science"),
    **dict.fromkeys(("detector", "module", "combine", "evaluation", "optimizer", "scheduler"), "science"),
    "data": "science",
    **dict.fromkeys(("data.root", "data.follow_symlinks", "data.check_images"), "data"),
    **dict.fromkeys(("data.train_annotations", "data.train_images"), "data"),
    **dict.fromkeys(("data.val_annotations", "data.val_images"), "data"),
    "data.loader.num_workers": "machine",
    "trainer": "science",
    **dict.fromkeys(("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"), "machine"),
    **dict.fromkeys(("trainer.log_every_n_steps", "trainer.detect_anomaly"), "display"),
    "debug": "display",
    "logger": "display",
    "callbacks": "science",  # averaged weights, the statistics of norms, which checkpoint is the best
    **dict.fromkeys(
        (f"callbacks.checkpoints.every_{often}" for often in ("n_epochs", "n_steps", "minutes")), "display"
    ),
    **dict.fromkeys(("callbacks.progress", "callbacks.pictures", "callbacks.fusion_weights"), "display"),
}
"""Key -> the kind of the setting, or of all below it that are not named themselves."""

OF_THIS_MACHINE = tuple(key.partition(".")[2] for key, kind in KINDS.items() if kind == "machine" and "trainer." in key)
"""Settings of the trainer that a command takes from its own machine, whatever a checkpoint says.

The workers of the loader are not among them: whoever set their number for the run had a reason.
"""

AFTER_TRAINING = ("combine",)
"""Settings of science on which no weight depends: runs that differ in nothing else may share their training."""


def kind_of(path: str) -> Kind:
    """The kind of a setting.

    Args:
        path: where it stands in the configuration, such as ``resample.up``. What the table does not know is a part of
            the user's own: science.
    """
    while path and path not in KINDS:
        path = path.rpartition(".")[0]
    return KINDS.get(path, "science")


def keys_of(*kinds: Kind) -> tuple[str, ...]:
    """The keys of these kinds, in the order of the table."""
    return tuple(key for key, kind in KINDS.items() if kind in kinds)
