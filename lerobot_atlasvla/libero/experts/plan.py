"""A task as a sequence of skills: what the files of ``plans`` are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lerobot_atlasvla.libero.experts.grasps import Grasp, Place
from lerobot_atlasvla.libero.experts.motion import Skill
from lerobot_atlasvla.libero.experts.pick_place import PickAndPlace

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


type Step = Callable[[ControlEnv], Skill]
"""Makes a skill for an environment."""
type Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Pick:
    """Carry an object.

    Attributes:
        grasp: How to take it.
        place: Where to let it go.
        goal: Number of the predicate, among the task's goals, that is to come true.
    """

    grasp: Grasp
    place: Place
    goal: int = 0

    def __call__(self, env: ControlEnv) -> PickAndPlace:
        """Return the skill for this environment."""
        predicate, thing, region = env.env.parsed_problem["goal_state"][self.goal]
        return PickAndPlace(env, (predicate, thing, region), self.grasp, self.place)
