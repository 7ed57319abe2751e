"""The judge: scores, differences with intervals, verdicts, and what an experiment can tell at all."""
