"""Lay a bottle on the wine rack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.grasps import GRASPS, kind_of
from lerobot_atlasvla.libero.experts.motion import OPEN, Phase, about_x, facing_down, up
from lerobot_atlasvla.libero.experts.skill import STRAIGHT, Motion

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


class LayOnRack(Motion):
    """Holds a bottle by its neck, sets the foot on the upper shelf, leaning up the shelf, and lets it fall over.

    The shelf rises by 31 degrees toward -y and has a stopper at its low end. If the hand laid the bottle flat, the
    fingers would run into the shelf.

    Args:
        env: A LIBERO ``ControlEnv``.
        goal: LIBERO's predicate: ``on``, the bottle and the shelf's site.
        aside_m: Where along the shelf, x from the site, m; a post stands in the middle.
    """

    TILT_RAD = 0.7
    """From 0.4 on the bottle falls up the shelf."""
    FOOT_M = (-0.012, 0.022)
    """Middle of the underside when its edge touches the shelf, behind the stopper: y and z from the site."""
    OVER_M = 0.08

    def __init__(self, env: ControlEnv, goal: tuple[str, str, str], aside_m: float) -> None:
        _, self._bottle_name, self._site = goal
        self._grasp = up(GRASPS[kind_of(self._bottle_name)].height_m)
        self._foot = np.array([aside_m, *self.FOOT_M])
        self._leaning = about_x(self.TILT_RAD) @ facing_down(STRAIGHT)
        super().__init__(env, goal)

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        name, straight = self._bottle_name, facing_down(STRAIGHT)
        at_neck = lambda: (self._origin(name) + self._grasp, straight)  # noqa: E731
        yield from self._go(lambda: (at_neck()[0] + up(self.OVER_M), straight), OPEN, tolerance_m=0.02)
        yield from self._go(at_neck, OPEN, tolerance_m=0.006, patience=40)
        yield from self._close(at_neck)
        foot = self._env.sim.data.get_site_xpos(self._site) + self._foot
        self.phase = Phase.LIFT
        lifted = np.array([*self._origin(name)[:2], foot[2] + self.OVER_M])
        yield from self._bring(name, lifted, straight)
        self.phase = Phase.CARRY
        yield from self._bring(name, foot + up(self.OVER_M), self._leaning)
        yield from self._bring(name, foot - up(0.01), self._leaning, tolerance_m=0.008, patience=25)
        yield from self._open()
        yield from self._retreat(-0.08 * self.hand.rotation[:, 2])
        yield from self._go_home()
