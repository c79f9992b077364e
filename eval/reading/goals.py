"""The goals of a suite's tasks, out of their descriptions, and in whose scenes they can be judged."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.common.errors import EvalError
from eval.reading.judge import Goal
from eval.rollout.simulator import libero_tasks


@dataclass(frozen=True)
class DescribedTask:
    """Describe a task as far as its goal and its scene go.

    Attributes:
        task_id: Index of the task in its suite.
        instruction: What a policy is told.
        goal: What it asks for.
        scene: Kind of the scene, and the kinds of its objects and fixtures by their names.
        regions: Definitions of the regions by their names.
    """

    task_id: int
    instruction: str
    goal: Goal
    scene: Mapping[str, str]
    regions: Mapping[str, Any]

    def lacks(self, other: "DescribedTask") -> list[str]:
        """Return what another task's goal names and this one's scene lacks, or has elsewhere or of another kind."""
        names = {name for predicate in other.goal for name in predicate[1:]}
        return sorted(
            name
            for name in names
            if not (name in self.scene or name in self.regions)
            or (self.scene.get(name), self.regions.get(name)) != (other.scene.get(name), other.regions.get(name))
        )

    def includes(self, other: "DescribedTask") -> bool:
        """Tell whether this goal can't be reached without the other one."""
        return set(other.goal) <= set(self.goal)

    def obstacle(self, told: "DescribedTask") -> str | None:
        """Say why this task's scene can't show whether a policy does what another task tells it; None if it can."""
        if told.scene != self.scene or self.lacks(told):
            return "their scenes have other objects or places"
        if self.includes(told) or told.includes(self):
            return "one's goal is the other's, too"
        return None


def read_tasks(suite: str) -> list[DescribedTask]:
    """Read the descriptions of a suite's tasks.

    Raises:
        EvalError: If LIBERO is not installed or does not have the suite.
    """
    tasks = libero_tasks([suite], None, "suite")
    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    with contextlib.redirect_stdout(io.StringIO()):  # LIBERO announces every suite
        described = benchmark.get_benchmark_dict()[suite]()
    folder = get_libero_path("bddl_files")
    found = []
    for task in tasks:
        of_libero = described.get_task(task.task_id)
        problem = robosuite_parse_problem(os.path.join(folder, of_libero.problem_folder, of_libero.bddl_file))
        found.append(described_task(task.task_id, task.instruction, problem))
    return found


def described_task(task_id: int, instruction: str, problem: Mapping[str, Any]) -> DescribedTask:
    """Take from a description, as LIBERO parses it, what matters here."""
    goal = tuple(tuple(predicate) for predicate in problem["goal_state"])
    things = [problem["objects"], problem["fixtures"]]
    scene = {name: kind for kinds in things for kind, names in kinds.items() for name in names}
    return DescribedTask(task_id, instruction, goal, scene | {"": problem["problem_name"]}, problem["regions"])


def judges(tasks: Sequence[DescribedTask], state: DescribedTask, told: DescribedTask) -> tuple[tuple[int, Goal], ...]:
    """Return the goals that judge a rollout: those of the two, and of third tasks that are no part of either.

    Raises:
        EvalError: If the two can't be told apart in one scene.
    """
    if obstacle := state.obstacle(told):
        raise EvalError(
            f"Task {told.task_id} can't be told in the scene of task {state.task_id}: {obstacle}. All tasks of "
            "--suite=libero_goal share one scene; of another suite, choose tasks with the same objects and different "
            "goals with --task_ids and --told_task_ids."
        )
    return tuple(
        (task.task_id, task.goal)
        for task in tasks
        if task in (state, told) or not (state.lacks(task) or state.includes(task) or told.includes(task))
    )
