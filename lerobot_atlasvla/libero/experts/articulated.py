"""Skills on what is fixed: pull and push drawers, turn a knob."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import CLOSED, OPEN, Phase, about_x, about_z, facing_down, funnel, up
from lerobot_atlasvla.libero.experts.skill import PATIENCE_STEPS, STRAIGHT, Motion

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

# Cabinets, wooden and white. The handles are bars along x, 16 mm thick, 8 mm in front of a gap of 16 mm. As LIBERO
# places them, the wooden one is turned by half a turn and its drawers open toward +y, those of the white one toward -y.
HANDLES_M = {"top": (-0.002, -0.102, 0.184), "middle": (-0.002, -0.102, 0.110), "bottom": (-0.002, -0.102, 0.040)}
"""Middle of the handle in the drawer's frame."""
APPROACH_M = 0.10
CLEAR_M = 0.06
OVERSHOOT_M = 0.008
"""How far beyond "open" to pull: the drawer springs back a little when it is let go."""


class _Drawer(Motion):
    """Skill on a drawer, whose inside is the site ``region``."""

    def __init__(self, env: ControlEnv, predicate: str, region: str, rotation: np.ndarray) -> None:
        cabinet, level, _ = region.rsplit("_", 2)
        self._joint_name = f"{cabinet}_{level}_level"
        self._body_name = f"{cabinet}_cabinet_{level}"
        self._handle_m = HANDLES_M[level]
        self._rotation = rotation
        super().__init__(env, (predicate, region))

    def _handle(self) -> np.ndarray:
        return self._from_body(self._body_name, self._handle_m)


class OpenDrawer(_Drawer):
    """Takes a drawer's handle from the front, fingers above and below it, and pulls.

    Args:
        env: A LIBERO ``ControlEnv``.
        region: Site of the drawer's inside, such as ``wooden_cabinet_1_top_region``.
    """

    TILT_RAD = 1.3
    """How far the fingers point forward; 0 is down, a quarter turn horizontal."""

    def __init__(self, env: ControlEnv, region: str) -> None:
        super().__init__(env, "open", region, about_x(-self.TILT_RAD) @ facing_down(STRAIGHT))

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        # Turn the fingers forward above what stands in front of the cabinet.
        over, rotation = self.hand.position.copy(), self.hand.rotation
        over[2] = max(over[2], self._handle()[2] + CLEAR_M)
        yield from self._go(lambda: (over, rotation), OPEN, tolerance_m=0.04)
        before = np.array([0.0, APPROACH_M, 0.0])
        yield from self._go(
            lambda: (self._handle() + before, self._rotation), OPEN, tolerance_m=0.03, tolerance_rad=0.2
        )
        at_handle = lambda: (self._handle(), self._rotation)  # noqa: E731
        yield from self._go(at_handle, OPEN, tolerance_m=0.01, patience=40)
        yield from self._close(at_handle)
        self.phase = Phase.PULL
        for _ in range(PATIENCE_STEPS):
            if self._joint(self._joint_name) < -0.14 - OVERSHOOT_M:
                break
            # Height and x of the handle, and always a little further out.
            yield self.hand.move(self._handle() + np.array([0.0, 0.06, 0.0]), self._rotation, CLOSED)
        yield from self._open()
        yield from self._retreat(np.array([0.0, 0.08, 0.0]))
        yield from self._go_home()


class CloseDrawer(_Drawer):
    """Pushes a drawer of the white cabinet shut by its handle, with closed fingers.

    Args:
        env: A LIBERO ``ControlEnv``.
        region: Site of the drawer's inside, such as ``white_cabinet_1_bottom_region``.
    """

    TILT_RAD = 0.7
    """How far the fingers point forward; upright, the hand would meet the handles above."""
    BEFORE_M = 0.06
    OVER_M = 0.12
    AHEAD_M = 0.04
    SHUT_M = 0.003
    """LIBERO takes 0 for closed; the drawer ends at 0.01."""

    def __init__(self, env: ControlEnv, region: str) -> None:
        # Fingers side by side, so that the hand is flat between handle and table.
        super().__init__(env, "close", region, about_x(self.TILT_RAD) @ facing_down(0.0))

    def _before_handle(self, distance: float) -> np.ndarray:
        return self._handle() - np.array([0.0, distance, 0.0])

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        over = lambda: (self._before_handle(self.BEFORE_M) + up(self.OVER_M), self._rotation)  # noqa: E731
        yield from self._go(over, CLOSED, tolerance_m=0.03, tolerance_rad=0.2)
        yield from self._go(lambda: (self._before_handle(self.BEFORE_M), self._rotation), CLOSED, tolerance_m=0.015)
        self.phase, self.free_motion = Phase.PUSH, False
        for _ in range(PATIENCE_STEPS):
            if self._joint(self._joint_name) > self.SHUT_M:
                break
            yield self.hand.move(self._before_handle(-self.AHEAD_M), self._rotation, CLOSED)
        yield from self._retreat(np.array([0.0, -0.06, 0.0]), CLOSED)
        yield from self._go_home()


class TurnKnob(Motion):
    """Takes the stove's knob by its bar and turns it on, counter-clockwise.

    Args:
        env: A LIBERO ``ControlEnv``.
        stove: Body name of the stove.
    """

    GRASP_M = 0.036
    """Height of the grasp above the stove's origin; the bar ends at 0.050."""
    ABOVE_M = 0.084
    """Height above the grasp from which the hand comes down along a funnel."""
    LEAD_RAD = 0.5
    ON_RAD = 0.75
    """LIBERO takes 0.5 for on."""

    def __init__(self, env: ControlEnv, stove: str) -> None:
        self._body_name = f"{stove}_button"
        self._joint_name = f"{stove}_button"
        super().__init__(env, ("turnon", stove))

    def _motion(self) -> Iterator[np.ndarray]:
        self.phase = Phase.REACH
        knob = self._from_body(self._body_name, (0.0, 0.0, 0.0))
        angle = self._joint(self._joint_name)
        rotation = about_z(angle) @ facing_down(STRAIGHT)
        at_knob = knob + up(self.GRASP_M)

        def approach() -> tuple[np.ndarray, np.ndarray]:
            # Down only as far as the hand is over the knob: beside it, the fingers hook on its side.
            off = float(np.linalg.norm((at_knob - self.hand.position)[:2]))
            return at_knob + up(funnel(off, self.ABOVE_M)), rotation

        yield from self._go(approach, OPEN, tolerance_m=0.008)
        yield from self._close(lambda: (at_knob, rotation))
        self.phase = Phase.TURN
        for _ in range(PATIENCE_STEPS):
            angle = self._joint(self._joint_name)
            if angle > self.ON_RAD:
                break
            yield self.hand.move(at_knob, about_z(angle + self.LEAD_RAD) @ facing_down(STRAIGHT), CLOSED)
        yield from self._open()
        yield from self._retreat(up(0.10))
