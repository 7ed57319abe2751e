"""What is wrong with a data set, or worth a look before anything is trained: found, counted, told with the remedy."""

from detfuse.data.doctor.case import Case, Finding, Fit
from detfuse.data.doctor.checks import CHECKS, examined
from detfuse.data.doctor.looking import look_at
from detfuse.data.doctor.reading import read_splits
from detfuse.data.doctor.telling import as_json, told

__all__ = ["CHECKS", "Case", "Finding", "Fit", "as_json", "examined", "look_at", "read_splits", "told"]
