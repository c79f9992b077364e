"""Take an object from above, carry it to its place, let go and retreat.

It looks at bodies and sites by name and never at meshes, so it works on any scene that keeps LIBERO's names and
dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.grasps import Grasp, Place
from lerobot_atlasvla.libero.experts.motion import (
    CLOSED,
    FREE_MOTION_M,
    FUNNEL_HEIGHT_M,
    FUNNEL_INNER_M,
    OPEN,
    RISE_FIRST_M,
    Phase,
    about_z,
    facing_down,
    funnel,
    up,
)
from lerobot_atlasvla.libero.experts.skill import CLOSE_MIN_STEPS, CLOSED_GAP_CHANGE_M, Skill

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

ASIDE = "aside"
ASIDE_HEIGHT_M = 0.01

OPEN_GAP_M = 0.06
"""Finger gap that counts as open; 0.08 is fully open. Closing on a rim before that would push the bowl."""
WIDE_GAP_M = 0.074
"""The same for a grasp across the middle."""
PATIENCE_STEPS = 70
"""Reaching takes 25 to 40 steps. After this many something blocks the fingers (the drawer): accept half as good."""
LOST_M = 0.025
"""The object has slipped when it has moved by this much relative to the gripper: open and grasp again."""
PRESS_M = 0.01
"""Distance below contact to aim at while setting an object down."""
RELEASE_STEPS = 5
RELEASE_AT_MOST_STEPS = 15
"""What was held across the middle clings to fingers that move before they are open."""
RETREAT_STEPS = 10
RETREAT_M = 0.05


class PickAndPlace(Skill):
    """State machine that makes one predicate true by carrying an object.

    It grasps again when the object slips, or is not where it belongs in the end.

    Args:
        env: A LIBERO ``ControlEnv`` with relative OSC_POSE control at 20 Hz. It may be built without a renderer.
        goal: LIBERO's predicate: its name, the object and the place; or :data:`ASIDE`, the object and a site, to put it
            near that.
        grasp: How to take the object.
        place: Where to let it go.
    """

    def __init__(self, env: ControlEnv, goal: tuple[str, ...], grasp: Grasp, place: Place) -> None:
        self.grasp, self.place = grasp, place
        _, self._object_name, region = goal
        self._place_name = place.name or region
        super().__init__(env, goal)

    def reset(self) -> None:
        """Start over; to be called after the environment was reset."""
        super().reset()
        self._angle = np.deg2rad(self.grasp.angle_deg)
        self._turn = 0.0
        self._phase_steps = 0
        self._lift_from = 0.0
        self._carry_height = 0.0
        self._held = np.zeros(3)

    def act(self) -> np.ndarray:
        """Decide the next action from the simulator's current state, as :meth:`Skill.act` does."""
        self._observe()
        phase = self._next_phase()
        if phase is not self.phase:
            self._enter(phase)
        self._phase_steps += 1
        return self._command()

    # -- perception ----------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        self.hand.observe()
        turn = self._env.sim.data.body_xmat[self._env.env.obj_body_id[self._object_name]].reshape(3, 3)
        self._object = self._position(self._object_name) + turn @ np.array([*self.grasp.center_m, 0.0])
        self._destination = self._position(self._place_name) + np.array(self.place.offset_m)
        if self.grasp.axis is not None and self.phase is Phase.REACH:
            # What has been grasped turns with the hand; until then, the hand with it.
            self._angle = np.arctan2(*turn[[1, 0], self.grasp.axis])
        self._aim()

    def _aim(self, miss: np.ndarray | float = 0.0) -> None:
        """Settle where to grasp, ``miss`` (3,) meters beside the right place, and how far off hand and object are."""
        rim = self.grasp.radius_m * np.array([np.cos(self._angle), np.sin(self._angle)])
        self._grasp_point = self._object + np.array([*rim, self.grasp.height_m]) + miss
        self._grasp_error = float(np.linalg.norm((self._grasp_point - self.hand.position)[:2]))
        self._place_error = float(np.linalg.norm((self._destination - self._object)[:2]))

    def _position(self, name: str) -> np.ndarray:
        body = self._env.env.obj_body_id.get(name)
        data = self._env.sim.data
        return data.get_site_xpos(name).copy() if body is None else data.body_xpos[body].copy()

    def holds(self) -> bool:
        """Tell whether the predicate is true."""
        if self.goal[0] == ASIDE:
            off = self._position(self._object_name) - self._position(self._place_name) - np.array(self.place.offset_m)
            return bool(np.linalg.norm(off[:2]) < self.place.tolerance_m and off[2] < ASIDE_HEIGHT_M)
        return super().holds()

    # -- decisions -----------------------------------------------------------------------------------------------------

    def _next_phase(self) -> Phase:
        match self.phase:
            case Phase.REACH if self._ready_to_close():
                return Phase.CLOSE
            case Phase.CLOSE if self._phase_steps >= CLOSE_MIN_STEPS and self.hand.gap_change < CLOSED_GAP_CHANGE_M:
                return Phase.LIFT
            case Phase.LIFT | Phase.CARRY if np.linalg.norm(self.hand.position - self._object - self._held) > LOST_M:
                return Phase.REACH
            case Phase.LIFT if self.hand.position[2] - self._lift_from > self.grasp.lift_m:
                return Phase.CARRY
            case Phase.CARRY if self._place_error < self.place.tolerance_m and (self.holds() or self._may_drop()):
                return Phase.RELEASE
            case Phase.RELEASE if self._let_go():
                return Phase.RETREAT
            case Phase.RETREAT if self._phase_steps >= RETREAT_STEPS:
                return Phase.DONE if self.holds() else Phase.REACH
        return self.phase

    def _ready_to_close(self) -> bool:
        slack = 1.0 if self._phase_steps < PATIENCE_STEPS else 2.0
        height_error = abs(self._grasp_point[2] - self.hand.position[2])
        near = max(self._grasp_error, height_error) < slack * self.grasp.tolerance_m
        open_gap = OPEN_GAP_M if self.grasp.radius_m else WIDE_GAP_M
        return bool(near and self.hand.gap > open_gap / slack)

    def _let_go(self) -> bool:
        wide = self.grasp.radius_m > 0 or self.hand.gap > WIDE_GAP_M or self._phase_steps >= RELEASE_AT_MOST_STEPS
        return self._phase_steps >= RELEASE_STEPS and wide

    def _may_drop(self) -> bool:
        return self.place.drop and bool(self._object[2] - self._destination[2] < PRESS_M)

    def _enter(self, phase: Phase) -> None:
        match phase:
            case Phase.CLOSE:
                self.grasps += 1
            case Phase.LIFT:
                self._lift_from = self.hand.position[2]
                self._held = self.hand.position - self._object
            case Phase.CARRY:
                # Stay as high as the object was lifted until the place is near: the cabinet's edge is on the way.
                lifted = self._object[2] - self._destination[2]
                self._carry_height = max(FUNNEL_HEIGHT_M, lifted, self.place.clearance_m)
                if self.place.angle_deg is not None:
                    # The fingers are symmetric: at most a quarter turn.
                    self._turn = (np.deg2rad(self.place.angle_deg) - self._angle + np.pi / 2) % np.pi - np.pi / 2
            case Phase.REACH:
                self._turn = 0.0
        self.phase = phase
        self._phase_steps = 0

    # -- motion --------------------------------------------------------------------------------------------------------

    def _command(self) -> np.ndarray:
        self.free_motion = False
        eef = self.hand.position
        match self.phase:
            case Phase.REACH:
                self.free_motion = self._grasp_error > FREE_MOTION_M
                inner = FUNNEL_INNER_M if self.grasp.radius_m else self.grasp.tolerance_m
                hover = funnel(self._grasp_error, max(FUNNEL_HEIGHT_M, self.grasp.clearance_m), self.grasp.slope, inner)
                target = self._grasp_point + up(hover)
                if self._grasp_error > 2 * self.grasp.tolerance_m:
                    self._rise_first(target)
                return self._move(target, OPEN)
            case Phase.CLOSE:
                return self._move(self._grasp_point, CLOSED)
            case Phase.LIFT:
                # Aim higher than needed, else the arm slows down before it gets there.
                above = self._lift_from + self.grasp.lift_m + 0.02 - eef[2]
                return self._move(eef + up(above), CLOSED)
            case Phase.CARRY:
                self.free_motion = self._place_error > FREE_MOTION_M
                inner = min(FUNNEL_INNER_M, self.place.tolerance_m)
                hover = funnel(self._place_error, self._carry_height, self.place.slope, inner)
                target = self._destination + (eef - self._object) + up(hover if hover > 0 else -PRESS_M)
                self._rise_first(target)
                return self._move(target, CLOSED)
            case Phase.RETREAT:
                return self._move(eef + up(RETREAT_M), OPEN)
        return self._move(eef, OPEN)

    def _rise_first(self, target: np.ndarray) -> None:
        """Give up the sideways part of ``target`` while far below it: there is something in between."""
        if self.hand.position[2] < target[2] - RISE_FIRST_M:
            target[:2] = self.hand.position[:2]

    def _move(self, target: np.ndarray, gripper: float) -> np.ndarray:
        """Go to ``target``, fingers down and across the rim, or the object."""
        return self.hand.move(target, about_z(self._turn) @ facing_down(self._angle), gripper)
