"""The hand: where it is, and actions that bring it somewhere.

Frames: positions in meters and rotations in the world frame; the robot's base looks along +x, +y is to its left.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

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
"""Horizontal distance to the grasp or to the destination beyond which nothing delicate is going on."""

OPEN, CLOSED = -1.0, 1.0


class Phase(StrEnum):
    """Phase of the expert's motion."""

    REACH = "reach"
    CLOSE = "close"
    LIFT = "lift"
    CARRY = "carry"
    RELEASE = "release"
    RETREAT = "retreat"
    PULL = "pull"
    PUSH = "push"
    TURN = "turn"
    DONE = "done"


class Hand:
    """The gripper's state, and actions relative to it.

    Args:
        env: A LIBERO ``ControlEnv`` with relative OSC_POSE control at 20 Hz.

    Attributes:
        position: Grip site, (3,), m; the finger tips reach 13 mm beyond it.
        velocity: Its velocity, (3,), m/s.
        rotation: Its orientation, (3, 3).
        gap: Distance between the fingers, m; 0.08 is fully open.
        gap_change: How much the gap shrank since the last look, m.
    """

    def __init__(self, env: ControlEnv) -> None:
        self._env = env
        self.forget()

    def forget(self) -> None:
        """Forget the last gap; to be called after a reset."""
        self.gap = np.inf

    def observe(self) -> None:
        """Read the hand's position, velocity, rotation and gap from the simulator."""
        # Through env.sim every time: a hard reset replaces the simulation.
        data = self._env.sim.data
        self.position = data.get_site_xpos("gripper0_grip_site").copy()
        self.velocity = data.get_site_xvelp("gripper0_grip_site").copy()
        self.rotation = data.get_site_xmat("gripper0_grip_site").copy()
        gap = data.get_joint_qpos("gripper0_finger_joint1") - data.get_joint_qpos("gripper0_finger_joint2")
        self.gap_change = self.gap - gap
        self.gap = gap

    def move(self, target: np.ndarray, rotation: np.ndarray, gripper: float) -> np.ndarray:
        """Return the action that goes to a pose.

        Args:
            target: Position of the grip site, (3,), m.
            rotation: Its orientation, (3, 3).
            gripper: :data:`OPEN` or :data:`CLOSED`.

        Returns:
            OSC_POSE action, (7,) float64 in [-1, 1].
        """
        position = POSITION_GAIN * (target - self.position - DAMPING_S * self.velocity) / POSITION_SCALE_M
        position /= max(1.0, np.abs(position).max())  # scaled, not clipped: keeps the direction
        turn = rotation_vector(rotation @ self.rotation.T) / ROTATION_SCALE_RAD
        return np.concatenate([position, np.clip(turn, -1.0, 1.0), [gripper]])


def up(height: float) -> np.ndarray:
    """Return the vector, (3,), m, of this length that points up."""
    return np.array([0.0, 0.0, height])


def funnel(
    horizontal_error: float, height: float, slope: float = FUNNEL_SLOPE, inner_m: float = FUNNEL_INNER_M
) -> float:
    """Return how high above the target to be, m, at this horizontal distance from it."""
    return float(np.clip(slope * (horizontal_error - inner_m), 0.0, height))


def facing_down(angle: float) -> np.ndarray:
    """Return the orientation (3, 3) of the grip site, pointing down, that closes the fingers along an angle in rad."""
    # The fingers are symmetric: of the two yaws half a turn apart, take the one nearer to a straight wrist.
    yaw = angle % np.pi - np.pi / 2
    straight = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    return about_z(yaw) @ straight


def about_z(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) by an angle in rad about the vertical, counter-clockwise from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def about_x(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) by an angle in rad about world x; a positive one turns "down" toward +y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle (rad), (3,), of a rotation matrix (3, 3); zero for a half turn."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine = np.linalg.norm(axis)  # of the angle, twice
    return axis * (np.arctan2(sine, np.trace(rotation) - 1.0) / sine) if sine > 1e-9 else np.zeros(3)
