"""Scripted demonstrator for the ten tasks of LIBERO's ``libero_spatial`` suite.

Every task says "pick up the black bowl <somewhere> and place it on the plate"; only the place of the bowl differs. The
expert reads the simulator's true poses (it is a teacher, not a policy), grasps the bowl by its rim, carries it to the
plate, lets go and retreats. It looks at bodies, sites and joints by name and never at meshes, so it works on any scene
that keeps LIBERO's names and dimensions.

Frames: positions in meters and rotations in the world frame; the robot's base looks along +x, +y is to its left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.tasks import SPATIAL

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

SUITES = (SPATIAL,)
"""The suites that the expert knows."""


@dataclass(frozen=True)
class Grasp:
    """Grasp of the bowl in one task.

    Attributes:
        rim_angle_deg: Point of the rim, in degrees from world +x, counter-clockwise from above, seen from the center.
        lift_m: How far to lift straight up before moving sideways.
        height_m: Height of the grasp above the bowl's underside; the rim is at 0.052. Higher lets the wall slip.
        walled: Whether walls all around leave no room beside the bowl.
    """

    rim_angle_deg: float
    lift_m: float = 0.04
    height_m: float = 0.031
    walled: bool = False


# The fingers open along world y when the wrist is straight, so +-90 degrees needs no wrist rotation and is the first
# choice; the sign is the side on which no neighbor stands. Drawer and cabinet leave room only at the angles given, and
# the bowl has to clear the drawer's walls before it moves sideways; a deeper grasp would touch the drawer's floor.
_GRASP_BY_PLACE = {
    "between_the_plate_and_the_ramekin": Grasp(-90),
    "next_to_the_ramekin": Grasp(90),
    "from_table_center": Grasp(90),
    "on_the_cookie_box": Grasp(90),
    "in_the_top_drawer_of_the_wooden_cabinet": Grasp(-25, lift_m=0.10, height_m=0.036, walled=True),
    "on_the_ramekin": Grasp(-90),
    "next_to_the_cookie_box": Grasp(90),
    "on_the_stove": Grasp(90),
    "next_to_the_plate": Grasp(-90),
    "on_the_wooden_cabinet": Grasp(180),
}
GRASPS: Mapping[str, Grasp] = MappingProxyType(
    {f"pick_up_the_black_bowl_{place}_and_place_it_on_the_plate": grasp for place, grasp in _GRASP_BY_PLACE.items()}
)
"""The tasks that the expert knows, by LIBERO's task name."""

# The bowl (LIBERO's akita_black_bowl; its origin is the middle of its underside).
RIM_RADIUS_M = 0.047

# The controller (OSC_POSE, relative): an action of 1 moves the goal by this much.
POSITION_SCALE_M = 0.05
ROTATION_SCALE_RAD = 0.5

POSITION_GAIN = 2.0
"""Goal offset per meter of error: the controller's spring alone would slow down far before the target."""
DAMPING_S = 0.04
"""Meters of error taken off per m/s of speed, against the overshoot that the gain would cause."""

# Approach from above along a funnel instead of through way-points: the height above the target shrinks with the
# horizontal error and vanishes inside the inner radius, so a disturbed arm rises again by itself.
FUNNEL_SLOPE = 2.0
FUNNEL_INNER_M = 0.012
FUNNEL_HEIGHT_M = 0.06
RISE_FIRST_M = 0.02
"""This far below the funnel, rise before moving sideways: the cabinet, or the stove, may be in between."""
FREE_MOTION_M = 0.04
"""Horizontal distance to the grasp or to the plate beyond which nothing delicate is going on."""

GRASP_TOLERANCE_M = 0.01
OPEN_GAP_M = 0.06
"""Finger gap that counts as open; 0.08 is fully open. Closing on the rim before that would push the bowl."""
PATIENCE_STEPS = 70
"""Reaching takes 25 to 40 steps. After this many something blocks the fingers (the drawer): accept half as good."""
CLOSED_GAP_CHANGE_M = 0.0008
"""Fingers are closed when the gap shrinks by less than this per step; a fixed number of steps is not reliable."""
CLOSE_MIN_STEPS = 4
LOST_M = 0.025
"""The bowl has slipped when it has moved by this much relative to the gripper: open and grasp again."""
PLACED_M = 0.015
"""Horizontal error at which to let go; LIBERO accepts 0.03."""
PRESS_M = 0.01
"""Distance below contact to aim at while setting the bowl down."""
RELEASE_STEPS = 5
RETREAT_STEPS = 10
RETREAT_M = 0.05

OPEN, CLOSED = -1.0, 1.0


class Phase(StrEnum):
    """Phase of the expert's motion."""

    REACH = "reach"
    CLOSE = "close"
    LIFT = "lift"
    CARRY = "carry"
    RELEASE = "release"
    RETREAT = "retreat"
    DONE = "done"


class ScriptedExpert:
    """State machine that solves one ``libero_spatial`` task from privileged simulator state.

    Call :meth:`reset` after every ``env.reset()``, then execute what :meth:`act` returns, disturbed or not.

    Args:
        env: A LIBERO ``ControlEnv`` (or ``OffScreenRenderEnv``) with relative OSC_POSE control at 20 Hz. It may be
            built without a renderer.
        task_name: LIBERO's task name, one of :data:`GRASPS`.

    Attributes:
        phase: What the last action was for.
        free_motion: Whether the last action was far from everything delicate, so that it may be disturbed at will.
        grasps: How often it has closed the fingers; more than once after the bowl slipped.

    Raises:
        ValueError: If ``task_name`` is not one of the ten tasks.
    """

    def __init__(self, env: ControlEnv, task_name: str) -> None:
        if task_name not in GRASPS:
            raise ValueError(
                f"The scripted expert does not know the task {task_name!r}. It knows the libero_spatial tasks: "
                + ", ".join(sorted(GRASPS))
            )
        self._env = env
        self._grasp = GRASPS[task_name]
        self._angle = np.deg2rad(self._grasp.rim_angle_deg)
        ((_, self._bowl_name, self._plate_name),) = env.env.parsed_problem["goal_state"]
        self.reset()

    def reset(self) -> None:
        """Start over; to be called after the environment was reset."""
        self.phase = Phase.REACH
        self.free_motion = True
        self.grasps = 0
        self._phase_steps = 0
        self._gap = np.inf
        self._lift_from = 0.0
        self._carry_height = 0.0
        self._held = np.zeros(3)

    def act(self) -> np.ndarray:
        """Decide the next action from the simulator's current state.

        Returns:
            OSC_POSE action, (7,) float64 in [-1, 1]: position (1 is 0.05 m), rotation vector (1 is 0.5 rad), gripper
            (-1 opens, +1 closes).
        """
        self._observe()
        phase = self._next_phase()
        if phase is not self.phase:
            self._enter(phase)
        self._phase_steps += 1
        return self._command()

    # -- perception ----------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        # Through env.sim every time: a hard reset replaces the simulation.
        data = self._env.sim.data
        self._bowl = self._body(self._bowl_name)
        self._plate = self._body(self._plate_name)
        self._eef = data.get_site_xpos("gripper0_grip_site").copy()
        self._velocity = data.get_site_xvelp("gripper0_grip_site").copy()
        self._rotation = data.get_site_xmat("gripper0_grip_site").copy()
        gap = data.get_joint_qpos("gripper0_finger_joint1") - data.get_joint_qpos("gripper0_finger_joint2")
        self._gap_change = self._gap - gap
        self._gap = gap
        self._aim()

    def _aim(self, miss: np.ndarray | float = 0.0) -> None:
        """Settle where to grasp, ``miss`` (3,) meters beside the right place, and how far off hand and bowl are."""
        rim = RIM_RADIUS_M * np.array([np.cos(self._angle), np.sin(self._angle)])
        self._grasp_point = self._bowl + np.array([*rim, self._grasp.height_m]) + miss
        self._grasp_error = float(np.linalg.norm((self._grasp_point - self._eef)[:2]))
        self._place_error = float(np.linalg.norm((self._plate - self._bowl)[:2]))

    def _body(self, name: str) -> np.ndarray:
        return self._env.sim.data.body_xpos[self._env.env.obj_body_id[name]].copy()

    # -- decisions -----------------------------------------------------------------------------------------------------

    def _next_phase(self) -> Phase:
        match self.phase:
            case Phase.REACH if self._ready_to_close():
                return Phase.CLOSE
            case Phase.CLOSE if self._phase_steps >= CLOSE_MIN_STEPS and self._gap_change < CLOSED_GAP_CHANGE_M:
                return Phase.LIFT
            case Phase.LIFT | Phase.CARRY if np.linalg.norm(self._eef - self._bowl - self._held) > LOST_M:
                return Phase.REACH
            case Phase.LIFT if self._eef[2] - self._lift_from > self._grasp.lift_m:
                return Phase.CARRY
            case Phase.CARRY if self._place_error < PLACED_M and self._env.check_success():
                return Phase.RELEASE
            case Phase.RELEASE if self._phase_steps >= RELEASE_STEPS:
                return Phase.RETREAT
            case Phase.RETREAT if self._phase_steps >= RETREAT_STEPS:
                return Phase.DONE
        return self.phase

    def _ready_to_close(self) -> bool:
        slack = 1.0 if self._phase_steps < PATIENCE_STEPS else 2.0
        height_error = abs(self._grasp_point[2] - self._eef[2])
        return bool(max(self._grasp_error, height_error) < slack * GRASP_TOLERANCE_M and self._gap > OPEN_GAP_M / slack)

    def _enter(self, phase: Phase) -> None:
        match phase:
            case Phase.CLOSE:
                self.grasps += 1
            case Phase.LIFT:
                self._lift_from = self._eef[2]
                self._held = self._eef - self._bowl
            case Phase.CARRY:
                # Stay as high as the bowl was lifted until the plate is near: the cabinet's edge is on the way.
                self._carry_height = max(FUNNEL_HEIGHT_M, self._bowl[2] - self._plate[2])
        self.phase = phase
        self._phase_steps = 0

    # -- motion --------------------------------------------------------------------------------------------------------

    def _command(self) -> np.ndarray:
        self.free_motion = False
        match self.phase:
            case Phase.REACH:
                self.free_motion = self._grasp_error > FREE_MOTION_M
                target = self._grasp_point + _up(_funnel(self._grasp_error, FUNNEL_HEIGHT_M))
                if self._grasp_error > 2 * GRASP_TOLERANCE_M:
                    self._rise_first(target)
                return self._move(target, OPEN)
            case Phase.CLOSE:
                return self._move(self._grasp_point, CLOSED)
            case Phase.LIFT:
                # Aim higher than needed, else the arm slows down before it gets there.
                above = self._lift_from + self._grasp.lift_m + 0.02 - self._eef[2]
                return self._move(self._eef + _up(above), CLOSED)
            case Phase.CARRY:
                self.free_motion = self._place_error > FREE_MOTION_M
                hover = _funnel(self._place_error, self._carry_height)
                target = self._plate + (self._eef - self._bowl) + _up(hover if hover > 0 else -PRESS_M)
                self._rise_first(target)
                return self._move(target, CLOSED)
            case Phase.RETREAT:
                return self._move(self._eef + _up(RETREAT_M), OPEN)
        return self._move(self._eef, OPEN)

    def _rise_first(self, target: np.ndarray) -> None:
        """Give up the sideways part of ``target`` while far below it: there is something in between."""
        if self._eef[2] < target[2] - RISE_FIRST_M:
            target[:2] = self._eef[:2]

    def _move(self, target: np.ndarray, gripper: float) -> np.ndarray:
        """Go to ``target``, fingers down and across the rim."""
        position = POSITION_GAIN * (target - self._eef - DAMPING_S * self._velocity) / POSITION_SCALE_M
        position /= max(1.0, np.abs(position).max())  # scaled, not clipped: keeps the direction
        rotation = _rotation_vector(_facing_down(self._angle) @ self._rotation.T) / ROTATION_SCALE_RAD
        return np.concatenate([position, np.clip(rotation, -1.0, 1.0), [gripper]])


def _up(height: float) -> np.ndarray:
    return np.array([0.0, 0.0, height])


def _funnel(horizontal_error: float, height: float) -> float:
    return float(np.clip(FUNNEL_SLOPE * (horizontal_error - FUNNEL_INNER_M), 0.0, height))


def _facing_down(rim_angle: float) -> np.ndarray:
    """Orientation (3, 3) of the grip site, pointing down, that closes the fingers across the rim at an angle in rad."""
    # The fingers are symmetric: of the two yaws half a turn apart, take the one nearer to a straight wrist.
    yaw = rim_angle % np.pi - np.pi / 2
    c, s = np.cos(yaw), np.sin(yaw)
    straight = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ straight


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle (rad), (3,), of a rotation matrix (3, 3); zero for a half turn."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine = np.linalg.norm(axis)  # of the angle, twice
    return axis * (np.arctan2(sine, np.trace(rotation) - 1.0) / sine) if sine > 1e-9 else np.zeros(3)
