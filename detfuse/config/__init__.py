"""The configuration: where it lies, what it may say, and the check that runs before torch is imported."""

from detfuse.config.compose import COMPOSITION_ERRORS, explained_composition
from detfuse.config.help import help_text
from detfuse.config.location import conf_dir
from detfuse.config.mistakes import CHECKPOINT_COMMANDS, check, replacements
from detfuse.config.overrides import CommandLine, read_command_line
from detfuse.config.resolve import Resolved, resolve
from detfuse.config.retired import brought_up_to_date
from detfuse.config.settings import (
    AblateSettings,
    CompareSettings,
    CostSettings,
    EvaluateSettings,
    ExportSettings,
    PredictSettings,
    TrainSettings,
)
from detfuse.config.stored import as_stored

__all__ = [
    "CHECKPOINT_COMMANDS",
    "COMPOSITION_ERRORS",
    "AblateSettings",
    "CommandLine",
    "CompareSettings",
    "CostSettings",
    "EvaluateSettings",
    "ExportSettings",
    "PredictSettings",
    "Resolved",
    "TrainSettings",
    "as_stored",
    "brought_up_to_date",
    "check",
    "conf_dir",
    "explained_composition",
    "help_text",
    "read_command_line",
    "replacements",
    "resolve",
]
