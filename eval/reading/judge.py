"""Judge a rollout by the goals of all tasks of its scene: which one is reached first?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.rollout.workers.scene import Judgment

Goal = tuple[tuple[str, ...], ...]
"""Predicates that must all hold, each as LIBERO parses it: ``("on", "akita_black_bowl_1", "plate_1")``."""

TOLD, COLLECTED_FOR, ANOTHER, NEITHER = "told", "collected_for", "another", "neither"
OUTCOMES = {
    TOLD: "the goal of the task that the policy was told",
    COLLECTED_FOR: "the goal of the task whose scene and initial state it was",
    ANOTHER: "the goal of a third task",
    NEITHER: "no goal until the end",
}
"""What may be reached first."""
LEFT_OUT = "left_out"
"""Outcome of a rollout that can't show anything: one of the first two goals is true at the start."""


@dataclass(frozen=True)
class FirstGoal:
    """End a rollout at the first goal that is reached. Goals that are true at the start are not judged.

    Attributes:
        state_task: Task whose scene and initial state it is.
        told_task: Task whose instruction the policy is told.
        goals: Goals by task, those two included; the scene has all that they name.
    """

    state_task: int
    told_task: int
    goals: tuple[tuple[int, Goal], ...]

    def assess(self, env: Any, before: Judgment | None) -> Judgment:
        """Judge an episode of LeRobot's ``LiberoEnv``; see :class:`.Judge`."""
        domain = env._env.env
        # LIBERO's own check asks for all predicates in the same way.
        true = [task for task, goal in self.goals if all(domain._eval_predicate(part) for part in goal)]
        at_start = true if before is None else before.record["true_at_start"]
        goal, outcome = self._first([task for task in true if task not in at_start])
        if self.told_task in at_start or self.state_task in at_start:
            goal, outcome = None, LEFT_OUT
        record = {
            "state_task": self.state_task,
            "told_task": self.told_task,
            "outcome": outcome,
            "goal": goal,
            "judged": [task for task, _ in self.goals if task not in at_start],
            "true_at_start": at_start,
        }
        return Judgment(over=outcome != NEITHER, success=outcome == TOLD, record=record)

    def _first(self, reached: Sequence[int]) -> tuple[int | None, str]:
        """Return the task whose goal counts, and the outcome; of goals reached in one step, the told one counts."""
        for task, outcome in ((self.told_task, TOLD), (self.state_task, COLLECTED_FOR)):
            if task in reached:
                return task, outcome
        return (min(reached), ANOTHER) if reached else (None, NEITHER)
