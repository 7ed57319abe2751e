"""The configuration: where it lies, what it may say, and the check that runs before torch is imported."""

from detfuse.config.help import help_text
from detfuse.config.location import conf_dir
from detfuse.config.mistakes import check, left_open, replacements
from detfuse.config.resolve import Resolved, resolve
from detfuse.config.retired import up_to_date
from detfuse.config.schema.compose import COMPOSITION_ERRORS, explained_composition
from detfuse.config.schema.groups import group_options
from detfuse.config.schema.overrides import CommandLine, read_command_line
from detfuse.config.settings import Settings, TrainSettings
from detfuse.config.stored import as_stored

__all__ = [
    "COMPOSITION_ERRORS",
    "CommandLine",
    "Resolved",
    "Settings",
    "TrainSettings",
    "as_stored",
    "check",
    "conf_dir",
    "explained_composition",
    "group_options",
    "help_text",
    "left_open",
    "read_command_line",
    "replacements",
    "resolve",
    "up_to_date",
]
