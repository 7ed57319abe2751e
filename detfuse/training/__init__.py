"""The Lightning module, optimisation, callbacks and the run folder."""
