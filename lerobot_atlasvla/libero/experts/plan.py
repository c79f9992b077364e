"""A task as a sequence of skills: what the files of ``plans`` are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lerobot_atlasvla.libero.experts.grasps import Grasp, Place
from lerobot_atlasvla.libero.experts.pick_place import ASIDE, PickAndPlace
from lerobot_atlasvla.libero.experts.skill import Skill

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


type Step = Pick | partial[Skill]
"""Makes a skill for an environment: called with it."""
type Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Pick:
    """Takes an object and puts it down at another place: one step of a plan.

    Attributes:
        grasp: How to take it.
        place: Where to let it go.
        goal: Number of the predicate, among the task's goals, that is to come true.
        aside: Name of an object to put out of the way instead, at ``place``.
    """

    grasp: Grasp
    place: Place
    goal: int = 0
    aside: str = ""

    def __call__(self, env: ControlEnv) -> PickAndPlace:
        """Return the skill for this environment."""
        if self.aside:
            return PickAndPlace(env, (ASIDE, self.aside, self.place.name), self.grasp, self.place)
        predicate, thing, region = env.env.parsed_problem["goal_state"][self.goal]
        return PickAndPlace(env, (predicate, thing, region), self.grasp, self.place)
