"""A suite of three tasks in one scene, and a checkpoint whose rollouts are only pretended."""

import pytest

from eval.reading.goals import DescribedTask, described_task
from tests.eval.rollout.simulated_run import checkpoint, simulated

__all__ = ["checkpoint", "simulated"]

GOALS = [["turnon", "stove_1"], ["on", "bowl_1", "plate_1"], ["open", "cabinet_1_top_region"]]
INSTRUCTIONS = ["turn on the stove", "put the bowl on the plate", "open the drawer"]


def problem(*goals: list[str], **changes) -> dict:
    """A description as LIBERO parses it."""
    return {
        "problem_name": "table",
        "objects": {"bowl": ["bowl_1"], "plate": ["plate_1"]},
        "fixtures": {"stove": ["stove_1"], "cabinet": ["cabinet_1"]},
        "regions": {"cabinet_1_top_region": {"target": "cabinet_1", "ranges": []}},
        "goal_state": list(goals),
    } | changes


@pytest.fixture
def tasks() -> list[DescribedTask]:
    return [described_task(i, INSTRUCTIONS[i], problem(goal)) for i, goal in enumerate(GOALS)]
