"""Define the base of all skills: the hand, the predicate that is to come true, and the state at the start.

A :class:`Skill` decides one action after the other. A :class:`Motion` is a skill that is written as one sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import CLOSED, FREE_MOTION_M, OPEN, Hand, Phase, facing_down

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

type Pose = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Position (3,) of the grip site, m, and orientation (3, 3), where they are to be at the moment of the call."""

CLOSED_GAP_CHANGE_M = 0.0008
"""Fingers are closed when the gap shrinks by less than this per step; a fixed number of steps is not reliable."""
CLOSE_MIN_STEPS = 4
STRAIGHT = np.pi / 2
"""Direction in which the fingers close when the wrist is straight, rad: along world y."""
HOME_M = (0.45, 0.0, 0.26)
"""Where every episode starts, seen from the robot's base."""
PATIENCE_STEPS = 80
"""Steps after which a way that does not lead to its end is given up."""


class Skill(ABC):
    """One part of a task.

    Args:
        env: A LIBERO ``ControlEnv`` with relative OSC_POSE control at 20 Hz. It may be built without a renderer.
        goal: LIBERO's predicate that is to come true: its name and arguments.

    Attributes:
        phase: What the last action was for; :attr:`Phase.DONE` when there is nothing left to do.
        free_motion: Whether the last action was far from everything delicate, so that it may be disturbed at will.
        grasps: How often it has closed the fingers.
    """

    def __init__(self, env: ControlEnv, goal: tuple[str, ...]) -> None:
        self._env = env
        self.goal = goal
        self.hand = Hand(env)
        self.reset()

    def reset(self) -> None:
        """Start over; to be called after the environment was reset."""
        self.phase = Phase.REACH
        self.free_motion = True
        self.grasps = 0
        self.hand.forget()

    @abstractmethod
    def act(self) -> np.ndarray:
        """Decide the next action from the simulator's current state.

        Returns:
            OSC_POSE action, (7,) float64 in [-1, 1]: position (1 is 0.05 m), rotation vector (1 is 0.5 rad), gripper
            (-1 opens, +1 closes).
        """

    def holds(self) -> bool:
        """Tell whether the predicate is true."""
        return bool(self._env.env._eval_predicate(self.goal))


class Motion(Skill):
    """Skill that is written as one sequence of motions; it starts over if the goal is not reached in the end."""

    def reset(self) -> None:
        """Start over; to be called after the environment was reset."""
        super().reset()
        self._actions = self._motion()

    def act(self) -> np.ndarray:
        """Decide the next action from the simulator's current state, as :meth:`Skill.act` does."""
        self.hand.observe()
        action = next(self._actions, None)
        if action is None and self.phase is not Phase.DONE:
            if self.holds():
                self.phase = Phase.DONE
            else:
                self._actions = self._motion()
                action = next(self._actions, None)
        return np.array([0, 0, 0, 0, 0, 0, OPEN], dtype=np.float64) if action is None else action

    @abstractmethod
    def _motion(self) -> Iterator[np.ndarray]:
        """Yield one action after the other; the hand has been looked at before each."""

    # -- parts of motions ----------------------------------------------------------------------------------------------

    def _go(
        self,
        pose: Pose,
        gripper: float,
        *,
        tolerance_m: float = 0.01,
        tolerance_rad: float = 0.15,
        patience: int = PATIENCE_STEPS,
    ) -> Iterator[np.ndarray]:
        """Move until the hand is at ``pose``, which may move, or patience ends."""
        for _ in range(patience):
            position, rotation = pose()
            off = float(np.linalg.norm(position - self.hand.position))
            turned = np.arccos(np.clip((np.trace(rotation @ self.hand.rotation.T) - 1) / 2, -1, 1))
            if off < tolerance_m and turned < tolerance_rad:
                return
            self.free_motion = self.phase is Phase.REACH and off > FREE_MOTION_M
            yield self.hand.move(position, rotation, gripper)
        self.free_motion = False

    def _bring(
        self, name: str, target: np.ndarray, rotation: np.ndarray, *, tolerance_m: float = 0.015, patience: int = 60
    ) -> Iterator[np.ndarray]:
        """Move until the origin of the object in the hand is at ``target``, (3,), m, or patience ends."""
        pose = lambda: (self.hand.position + target - self._origin(name), rotation)  # noqa: E731
        yield from self._go(pose, CLOSED, tolerance_m=tolerance_m, tolerance_rad=0.5, patience=patience)

    def _close(self, pose: Pose) -> Iterator[np.ndarray]:
        self.phase, self.free_motion = Phase.CLOSE, False
        self.grasps += 1
        steps = 0
        while steps < CLOSE_MIN_STEPS or self.hand.gap_change >= CLOSED_GAP_CHANGE_M:
            yield self.hand.move(*pose(), CLOSED)
            steps += 1

    def _open(self, steps: int = 6) -> Iterator[np.ndarray]:
        self.phase, self.free_motion = Phase.RELEASE, False
        rotation = self.hand.rotation
        for _ in range(steps):
            yield self.hand.move(self.hand.position, rotation, OPEN)

    def _retreat(self, by: np.ndarray, gripper: float = OPEN) -> Iterator[np.ndarray]:
        self.phase, self.free_motion = Phase.RETREAT, False
        target, rotation = self.hand.position + by, self.hand.rotation
        yield from self._go(lambda: (target, rotation), gripper, tolerance_m=0.02, patience=20)

    def _go_home(self) -> Iterator[np.ndarray]:
        self.phase = Phase.RETREAT
        data, body = self._env.sim.data, self._env.sim.model.body_name2id("robot0_base")
        home = data.body_xpos[body] + np.array(HOME_M)
        yield from self._go(lambda: (home, facing_down(STRAIGHT)), OPEN, tolerance_m=0.05, patience=40)

    def _joint(self, name: str) -> float:
        return float(self._env.sim.data.get_joint_qpos(name))

    def _origin(self, name: str) -> np.ndarray:
        """Return the position, (3,), of an object's origin."""
        return self._env.sim.data.body_xpos[self._env.env.obj_body_id[name]].copy()

    def _from_body(self, name: str, point: tuple[float, float, float]) -> np.ndarray:
        """Return the world position, (3,), of a point given in a body's frame."""
        data, body = self._env.sim.data, self._env.sim.model.body_name2id(name)
        return data.body_xpos[body] + data.body_xmat[body].reshape(3, 3) @ np.array(point)
