"""Push what stays on the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import CLOSED, Phase, facing_down, up
from lerobot_atlasvla.libero.experts.skill import PATIENCE_STEPS, STRAIGHT, Motion, Pose

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


class PushPlate(Motion):
    """Pushes a plate along the table from inside, with closed fingers against the slope to its rim.

    Behind the plate the arm would be stretched, and there is no room for the hand: the cabinet's handles are there.

    Args:
        env: A LIBERO ``ControlEnv``.
        goal: LIBERO's predicate: ``on``, the plate and the region's site.
        legs: Where to push it, one straight line after the other: x and y seen from the region's middle, m.
    """

    ABOVE_M = 0.05
    """Height of the grip site above the plate's origin on the way to it."""
    TOUCH_M = 0.018
    """The same where the finger tips touch the plate's floor."""
    PRESS_M = 0.015
    """Distance below that to aim at while pushing; at 5 mm the fingers climb the slope, at 20 mm the plate sticks."""
    AHEAD_M = 0.03
    ARRIVED_M = 0.012
    NEAR_M = 0.10
    """The last leg is enough from here."""

    def __init__(self, env: ControlEnv, goal: tuple[str, str, str], legs: tuple[tuple[float, float], ...]) -> None:
        _, self._plate_name, self._region = goal
        self._legs = legs
        super().__init__(env, goal)

    def _way(self, point: tuple[float, float]) -> tuple[np.ndarray, float]:
        """Return the direction (3,) from the plate to the point, and how far it is, m."""
        way = self._env.sim.data.get_site_xpos(self._region) + np.array([*point, 0.0]) - self._origin(self._plate_name)
        way[2] = 0.0
        far = float(np.linalg.norm(way))
        return way / max(far, 1e-9), far

    def _motion(self) -> Iterator[np.ndarray]:
        # A second try goes on where the first left the plate.
        near = self._way(self._legs[-1])[1] < self.NEAR_M
        for point in self._legs[-1:] if near else self._legs:
            if self._way(point)[1] > self.ARRIVED_M:
                yield from self._push(point)

    def _push(self, point: tuple[float, float]) -> Iterator[np.ndarray]:
        rotation = facing_down(STRAIGHT)

        def above(height: float) -> Pose:
            return lambda: (self._origin(self._plate_name) + up(height), rotation)

        self.phase = Phase.REACH
        yield from self._go(above(self.ABOVE_M), CLOSED, tolerance_m=0.02)
        yield from self._go(above(self.TOUCH_M), CLOSED, tolerance_m=0.012, patience=30)
        self.phase, self.free_motion = Phase.PUSH, False
        for _ in range(PATIENCE_STEPS):
            along, far = self._way(point)
            if far < self.ARRIVED_M:
                break
            # Stay on the line through the plate's middle and the point.
            plate = self._origin(self._plate_name)
            aside = plate - self.hand.position
            target = self.hand.position + aside - (aside @ along) * along + self.AHEAD_M * along
            target[2] = plate[2] + self.TOUCH_M - self.PRESS_M
            yield self.hand.move(target, rotation, CLOSED)
        yield from self._retreat(up(0.04), CLOSED)
