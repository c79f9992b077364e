"""Pairs of tasks: the scene and the initial states of one, the instruction of the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.common.errors import EvalError
from eval.reading.goals import DescribedTask, judges
from eval.reading.judge import FirstGoal
from eval.rollout.workers.scene import Scene
from eval.rollout.workers.worker import Task

NAME = "other tasks' instructions"
"""What ``run.json`` calls it beside the names of benchmarks."""
SUITE_SUFFIX = "_reading"


def pairs(tasks: int, task_ids: Sequence[int] | None, told_task_ids: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return all pairs of two tasks, (the state's, the told one), in order.

    Args:
        tasks: How many the suite has.
        task_ids: Tasks whose scenes and initial states are wanted; None for all.
        told_task_ids: Tasks whose instructions are wanted; None for all.
    """
    states, told = (range(tasks) if ids is None else sorted(ids) for ids in (task_ids, told_task_ids))
    return [(state, other) for state in states for other in told if other != state]


@dataclass(frozen=True)
class InstructionPairs:
    """Make a task of each pair: a benchmark of ``eval.run``'s workers.

    Attributes:
        suite: LIBERO suite.
        described: Its tasks.
        task_ids: Tasks whose scenes and initial states are wanted; None for all.
        told_task_ids: Tasks whose instructions are wanted; None for all.
    """

    suite: str
    described: Sequence[DescribedTask]
    task_ids: Sequence[int] | None
    told_task_ids: Sequence[int] | None

    @property
    def name(self) -> str:
        """Return what ``run.json`` calls it."""
        return NAME

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what ``run.json`` records beside the settings of ``eval.run``, by flag; ``task_ids`` may grow."""
        ids = {"task_ids": self.task_ids, "told_task_ids": self.told_task_ids}
        return {name: None if of is None else sorted(of) for name, of in ids.items()} | {
            "instructions": [task.instruction for task in self.described]
        }

    def tasks(self, libero: Sequence[Task] = ()) -> list[Task]:
        """Return a task for each pair; its number is the state's task times the suite's size, plus the told one.

        Args:
            libero: All tasks of the suite; their descriptions are here already.

        Raises:
            EvalError: If there is no pair, or one would show nothing.
        """
        wanted = pairs(len(self.described), self.task_ids, self.told_task_ids)
        if not wanted:
            raise EvalError(
                f"--task_ids={self.task_ids} and --told_task_ids={self.told_task_ids} have no two different tasks; a "
                "policy that is told the task of its scene is what eval.run rolls out."
            )
        return [self._task(self.described[state], self.described[told]) for state, told in wanted]

    def _task(self, state: DescribedTask, told: DescribedTask) -> Task:
        return Task(
            self.suite + SUITE_SUFFIX,
            state.task_id * len(self.described) + told.task_id,
            told.instruction,
            Scene(self.suite, state.task_id),
            name=f"{self.suite} {state.task_id} told {told.task_id}",
            judge=FirstGoal(state.task_id, told.task_id, judges(self.described, state, told)),
        )
