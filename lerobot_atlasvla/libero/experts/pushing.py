"""Push what stays on the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import OPEN, Phase, about_x, about_z, facing_down, up
from lerobot_atlasvla.libero.experts.skill import PATIENCE_STEPS, Motion

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv


class PushPlate(Motion):
    """Pushes a plate along the table with open fingers behind it: two points of contact, so that it can't turn away.

    Args:
        env: A LIBERO ``ControlEnv``.
        goal: LIBERO's predicate: ``on``, the plate and the region's site.
        legs: Where to push it, one straight line after the other: x and y seen from the region's middle, m, and how far
            the palm leans over the plate, rad, because something stands behind it.
    """

    BEHIND_M = 0.075
    """Distance of the fingers from the plate's center, on the side away from where it goes, before they touch it."""
    HEIGHT_M = 0.016
    """Height of the grip site above the plate's origin; the finger tips are then just above the table."""
    AHEAD_M = 0.03
    ARRIVED_M = 0.015
    NEAR_M = 0.12
    """The last leg is enough from here."""

    def __init__(
        self, env: ControlEnv, goal: tuple[str, str, str], legs: tuple[tuple[float, float, float], ...]
    ) -> None:
        _, self._plate_name, self._region = goal
        self._legs = legs
        super().__init__(env, goal)

    def _way(self, point: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the plate's position (3,), the direction (3,) to the point, and how far it is, m."""
        plate = self._env.sim.data.body_xpos[self._env.env.obj_body_id[self._plate_name]].copy()
        way = self._env.sim.data.get_site_xpos(self._region) + np.array([*point, 0.0]) - plate
        way[2] = 0.0
        far = float(np.linalg.norm(way))
        return plate, way / max(far, 1e-9), far

    def _motion(self) -> Iterator[np.ndarray]:
        *_, (last_x, last_y, _) = self._legs
        near = self._way((last_x, last_y))[2] < self.NEAR_M
        # A second try goes on where the first left the plate.
        for x, y, lean in self._legs[-1:] if near else self._legs:
            if self._way((x, y))[2] > self.ARRIVED_M:
                yield from self._push((x, y), lean)

    def _push(self, point: tuple[float, float], lean: float) -> Iterator[np.ndarray]:
        plate, along, _ = self._way(point)
        behind = plate - self.BEHIND_M * along
        self.phase = Phase.REACH
        toward = about_z(np.arctan2(along[1], along[0]) - np.pi / 2)
        across = facing_down(np.arctan2(along[1], along[0]) + np.pi / 2)
        rotation = toward @ about_x(-lean) @ toward.T @ across
        # Lean over the plate first: the tips swing backward meanwhile, and the cabinet's top is there.
        yield from self._go(lambda: (plate + up(0.10), rotation), OPEN, tolerance_m=0.03)
        yield from self._go(lambda: (behind + up(0.05), rotation), OPEN, tolerance_m=0.02)
        yield from self._go(lambda: (behind + up(self.HEIGHT_M), rotation), OPEN, tolerance_m=0.008, patience=30)
        self.phase, self.free_motion = Phase.PUSH, False
        for _ in range(PATIENCE_STEPS):
            plate, now, far = self._way(point)
            if far < self.ARRIVED_M or now @ along < 0:
                break
            # Stay behind the plate, on the line through the point.
            aside = plate - self.hand.position
            aside -= (aside @ now) * now
            target = self.hand.position + aside + self.AHEAD_M * now
            target[2] = plate[2] + self.HEIGHT_M
            yield self.hand.move(target, rotation, OPEN, speed=0.6)
        yield from self._retreat(-0.02 * along)
        yield from self._retreat(up(0.08))
