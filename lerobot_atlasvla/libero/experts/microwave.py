"""Set a mug into the microwave, which faces -y, and shut its door, the hinge of which is at the -x side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import CLOSED, OPEN, Phase, about_x, about_z, facing_down, up
from lerobot_atlasvla.libero.experts.skill import PATIENCE_STEPS, STRAIGHT, Motion

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


class SetInside(Motion):
    """Takes a mug by its handle, which points toward -y, and slides it in from there: the palm stays outside.

    Args:
        env: A LIBERO ``ControlEnv``.
        goal: LIBERO's predicate: ``in``, the mug (LIBERO's white_yellow_mug) and the site of the inside.
    """

    HANDLE_M = (0.064, 0.0, 0.056)
    """Middle of the handle's bar in the mug's frame."""
    TILT_RAD = 1.2
    """How far the fingers point forward; 0 is down, a quarter turn horizontal."""
    INSIDE_M = (-0.03, -0.016, -0.072)
    """From the site to the mug's origin when it stands inside."""
    OVER_M = 0.03
    APPROACH_M = 0.07
    OUTSIDE_M = 0.20

    def __init__(self, env: ControlEnv, goal: tuple[str, str, str]) -> None:
        _, self._mug_name, self._site = goal
        # Fingers side by side, so that the hand fits in front of the opening at any tilt.
        self._rotation = about_x(self.TILT_RAD) @ facing_down(0.0)
        super().__init__(env, goal)

    def _beside_handle(self, by: tuple[float, float, float]) -> np.ndarray:
        turn = self._env.sim.data.body_xmat[self._env.env.obj_body_id[self._mug_name]].reshape(3, 3)
        return self._origin(self._mug_name) + turn @ np.array(self.HANDLE_M) + np.array(by)

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        mug, rotation = self._mug_name, self._rotation
        before = (0.0, -self.APPROACH_M, 0.0)
        at_handle = lambda: (self._beside_handle((0, 0, 0)), rotation)  # noqa: E731
        yield from self._go(lambda: (self._beside_handle(before) + up(0.12), rotation), OPEN, tolerance_m=0.03)
        yield from self._go(lambda: (self._beside_handle(before), rotation), OPEN, tolerance_m=0.02)
        yield from self._go(at_handle, OPEN, tolerance_m=0.008, patience=40)
        yield from self._close(at_handle)
        inside = self._env.sim.data.get_site_xpos(self._site) + np.array(self.INSIDE_M)
        self.phase = Phase.LIFT
        yield from self._bring(mug, np.array([*self._origin(mug)[:2], inside[2] + self.OVER_M]), rotation)
        self.phase = Phase.CARRY
        yield from self._bring(mug, inside + np.array([0.0, -self.OUTSIDE_M, self.OVER_M]), rotation)
        yield from self._bring(mug, inside + up(self.OVER_M), rotation)
        yield from self._bring(mug, inside - up(0.01), rotation, tolerance_m=0.005, patience=15)
        yield from self._open()
        yield from self._retreat(np.array([0.0, -0.10, 0.0]))
        yield from self._retreat(up(0.10))


class CloseDoor(Motion):
    """Pushes the microwave's door shut from outside, with the tips of closed fingers at its upper edge.

    Args:
        env: A LIBERO ``ControlEnv``.
        microwave: Body name of the microwave.
    """

    TOUCH_M = (0.17, -0.03, 0.079)
    """The grip site in the door's frame when it pushes; the palm passes over door and microwave."""
    BEFORE_M = (0.17, -0.09, 0.079)
    OVER_M = 0.12
    LEAD_RAD = 0.35
    SHUT_RAD = -0.003
    """LIBERO takes -0.005 for closed; the door ends at 0."""

    def __init__(self, env: ControlEnv, microwave: str) -> None:
        self._joint_name = f"{microwave}_microjoint"
        self._body_name = f"{microwave}_microdoorroot"
        super().__init__(env, ("close", microwave))

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        down = facing_down(STRAIGHT)
        before = lambda: self._from_body(self._body_name, self.BEFORE_M)  # noqa: E731
        high = self.hand.position.copy()
        high[2] = max(high[2], before()[2] + self.OVER_M)
        yield from self._go(lambda: (high, down), CLOSED, tolerance_m=0.03, tolerance_rad=0.3)
        yield from self._go(lambda: (before() + up(self.OVER_M), down), CLOSED, tolerance_m=0.03)
        yield from self._go(lambda: (before(), down), CLOSED, tolerance_m=0.015)
        self.phase, self.free_motion = Phase.PUSH, False
        for _ in range(PATIENCE_STEPS):
            if self._joint(self._joint_name) > self.SHUT_RAD:
                break
            hinge = self._from_body(self._body_name, (0.0, 0.0, 0.0))
            touch = self._from_body(self._body_name, self.TOUCH_M)
            yield self.hand.move(hinge + about_z(self.LEAD_RAD) @ (touch - hinge), down, CLOSED)
        yield from self._retreat(np.array([0.0, -0.04, 0.0]), CLOSED)
        yield from self._retreat(up(0.08), CLOSED)
