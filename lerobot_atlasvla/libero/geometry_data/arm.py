"""Put the arm and the objects of a simulation somewhere, by kinematics alone."""

from __future__ import annotations

from typing import Any

import numpy as np

REACH_STEPS = 50
DAMPING = 0.05
LARGEST_STEP_RAD = 0.3
REACHED_M = 0.02
"""A posture whose end effector is farther from where it was to be is not taken."""
AROUND_M = 0.1
"""The arm reaches for places up to this far from an object along x and along y, ..."""
ABOVE_M = (0.03, 0.35)
"""... and so far above it."""
TILT_STD_DEG = 10.0
TRIES = 20
"""Postures drawn until the hand is above the table."""


class Arm:
    """The arm and the loose objects of a simulation that has just been reset.

    Args:
        env: LIBERO's ``ControlEnv``.
    """

    def __init__(self, env: Any) -> None:
        from mujoco import mjtJoint  # pyrefly: ignore[missing-module-attribute]

        robot = env.env.robots[0]
        self._model, self._data = model, data = env.sim.model._model, env.sim.data._data
        self._arm = np.array(robot._ref_joint_pos_indexes)
        self._arm_dofs = np.array(robot._ref_joint_vel_indexes)
        self._fingers = np.array(robot._ref_gripper_joint_pos_indexes)
        self._limits = model.jnt_range[robot._ref_joint_indexes].T
        self._site = robot.eef_site_id
        loose = np.flatnonzero(model.jnt_type == mjtJoint.mjJNT_FREE)
        self._objects = model.jnt_qposadr[loose]
        self._bodies = model.jnt_bodyid[loose]
        self._floor = data.xpos[self._bodies, 2].min() if len(loose) else -np.inf

    def put(self, qpos: np.ndarray) -> None:
        """Set all joints, (nq,), and where everything is then."""
        self._data.qpos[:] = qpos
        self._update()

    def disturb(self, std_rad: float, rng: np.random.Generator) -> None:
        """Add noise to the arm's joints, within their limits and without pushing the hand into the table."""
        before = self._data.qpos[self._arm].copy()
        for _ in range(TRIES):
            self._set_arm(before + rng.normal(0, std_rad, len(before)))
            if self._above_table():
                return
        self._set_arm(before)

    def scatter(self, own_m: float, together_m: float, rng: np.random.Generator) -> None:
        """Displace the loose objects along x and y, each on its own and all together, by up to so much along each."""
        offsets = rng.uniform(-own_m, own_m, (len(self._objects), 2)) + rng.uniform(-together_m, together_m, 2)
        self._data.qpos[self._objects[:, None] + [0, 1]] += offsets
        self._update()

    def reach(self, rng: np.random.Generator) -> None:
        """Bring the end effector over a random object, turned at random, and open the fingers at random.

        The arm stays where it is if it cannot get there.
        """
        from scipy.spatial.transform import Rotation

        if not len(self._bodies):
            return
        above = [*rng.uniform(-AROUND_M, AROUND_M, 2), rng.uniform(*ABOVE_M)]
        target = self._data.xpos[rng.choice(self._bodies)] + above
        turn = Rotation.from_euler("zyx", [rng.uniform(-90, 90), *rng.normal(0, TILT_STD_DEG, 2)], degrees=True)
        opening = rng.uniform(0, 0.04)
        before = self._data.qpos[self._arm].copy()
        if self._solve(target, turn * self._eef_rotation()) and self._above_table():
            self._data.qpos[self._fingers] = [opening, -opening]
            self._update()
        else:
            self._set_arm(before)

    def _solve(self, target: np.ndarray, rotation: Any) -> bool:
        """Damped least squares on the arm's joints; returns whether the position was reached."""
        from mujoco import mj_jacSite  # pyrefly: ignore[missing-module-attribute]

        jacobian = np.zeros((6, self._model.nv))
        for _ in range(REACH_STEPS):
            off = target - self._data.site_xpos[self._site]
            turned = (rotation * self._eef_rotation().inv()).as_rotvec()
            if np.linalg.norm(off) < REACHED_M / 4 and np.linalg.norm(turned) < 0.05:
                break
            mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
            arm = jacobian[:, self._arm_dofs]
            error = np.concatenate([off, turned])
            step = arm.T @ np.linalg.solve(arm @ arm.T + DAMPING**2 * np.eye(6), error)
            self._set_arm(self._data.qpos[self._arm] + np.clip(step, -LARGEST_STEP_RAD, LARGEST_STEP_RAD))
        return bool(np.linalg.norm(target - self._data.site_xpos[self._site]) < REACHED_M)

    def _eef_rotation(self) -> Any:
        from scipy.spatial.transform import Rotation

        return Rotation.from_matrix(self._data.site_xmat[self._site].reshape(3, 3))

    def _above_table(self) -> bool:
        return bool(self._data.site_xpos[self._site, 2] >= self._floor)

    def _set_arm(self, joints: np.ndarray) -> None:
        self._data.qpos[self._arm] = np.clip(joints, *self._limits)
        self._update()

    def _update(self) -> None:
        from mujoco import mj_camlight, mj_comPos, mj_kinematics  # pyrefly: ignore[missing-module-attribute]

        mj_kinematics(self._model, self._data)
        mj_comPos(self._model, self._data)  # what Jacobians are computed from
        mj_camlight(self._model, self._data)
