"""Scripted demonstrator for LIBERO's tasks.

It reads the simulator's true poses (it is a teacher, not a policy) and plays one skill after the other, as the task's
plan says (:mod:`~lerobot_atlasvla.libero.experts.plans`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.microwave import SetInside
from lerobot_atlasvla.libero.experts.motion import CLOSED, OPEN, Phase
from lerobot_atlasvla.libero.experts.plan import Pick, Plan
from lerobot_atlasvla.libero.experts.plans import goal, long, objects, spatial
from lerobot_atlasvla.libero.experts.pushing import PushPlate
from lerobot_atlasvla.libero.experts.rack import LayOnRack
from lerobot_atlasvla.libero.tasks import SPATIAL

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

__all__ = ["CLOSED", "OPEN", "PLANS", "SUITES", "Phase", "ScriptedExpert"]

PLANS: Mapping[str, Mapping[str, Plan]] = MappingProxyType(
    {SPATIAL: spatial.PLANS, "libero_object": objects.PLANS, "libero_goal": goal.PLANS, "libero_10": long.PLANS}
)
"""Plans by suite and LIBERO's name of the task, in LIBERO's order."""
_ON_OBJECTS = (PushPlate, LayOnRack, SetInside)
"""Motions that are about a loose object."""
SUITES = tuple(PLANS)
"""The suites of which the expert knows tasks."""


def known_tasks(suite: str) -> list[int]:
    """Return the numbers of the tasks of a suite that the expert knows; none for a suite without expert."""
    return list(range(len(PLANS.get(suite, {}))))


def known_by_suite() -> str:
    """Return, for a message, the numbers of all tasks that the expert knows."""
    return "; ".join(f"{suite}: {', '.join(map(str, known_tasks(suite)))}" for suite in SUITES)


def moves_objects(suite: str, task_id: int) -> bool:
    """Return whether a known task is about a loose object, so that it matters where that is."""
    return any(isinstance(step, Pick) or step.func in _ON_OBJECTS for step in list(PLANS[suite].values())[task_id])


def plan_of(task_name: str) -> Plan:
    """Return the steps by which the expert solves a task.

    Raises:
        ValueError: If there is none.
    """
    for plans in PLANS.values():
        if plan := plans.get(task_name):
            return plan
    known = "; ".join(f"{suite}: {', '.join(plans)}" for suite, plans in PLANS.items())
    raise ValueError(f"The scripted expert does not know the task {task_name!r}. It knows: {known}")


class ScriptedExpert:
    """Solves one LIBERO task from privileged simulator state.

    Call :meth:`reset` after every ``env.reset()``, then execute what :meth:`act` returns, disturbed or not.

    Args:
        env: A LIBERO ``ControlEnv`` (or ``OffScreenRenderEnv``) with relative OSC_POSE control at 20 Hz. It may be
            built without a renderer.
        task_name: LIBERO's task name, one of those in :data:`PLANS`.

    Raises:
        ValueError: If ``task_name`` is none of them.
    """

    def __init__(self, env: ControlEnv, task_name: str) -> None:
        self._skills = [step(env) for step in plan_of(task_name)]
        self.reset()

    def reset(self) -> None:
        """Start over; to be called after the environment was reset."""
        self._current = 0
        for skill in self._skills:
            skill.reset()

    @property
    def phase(self) -> Phase:
        """Return what the last action was for; :attr:`Phase.DONE` when there is nothing left to do."""
        return self._skills[self._current].phase

    @property
    def free_motion(self) -> bool:
        """Return whether the last action was far from everything delicate, so that it may be disturbed at will."""
        return self._skills[self._current].free_motion

    @property
    def grasps(self) -> int:
        """Return how often it has closed the fingers on one thing, the most of all; more than once after it slipped."""
        return max(skill.grasps for skill in self._skills)

    def act(self) -> np.ndarray:
        """Decide the next action from the simulator's current state.

        Returns:
            OSC_POSE action, (7,) float64 in [-1, 1]: position (1 is 0.05 m), rotation vector (1 is 0.5 rad), gripper
            (-1 opens, +1 closes).
        """
        if self.phase is Phase.DONE and self._current + 1 < len(self._skills):
            self._current += 1
        return self._skills[self._current].act()
