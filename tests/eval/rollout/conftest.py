"""Fixtures of the tests of ``eval.run``."""

from tests.eval.rollout.simulated_run import checkpoint, simulated

__all__ = ["checkpoint", "simulated"]
