"""Skills on what is fixed or stays on the table: pull and push drawers and doors, turn a knob, push a plate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lerobot_atlasvla.libero.experts.motion import (
    CLOSED,
    FREE_MOTION_M,
    OPEN,
    Hand,
    Phase,
    about_x,
    about_z,
    facing_down,
    up,
)
from lerobot_atlasvla.libero.experts.pick_place import CLOSE_MIN_STEPS, CLOSED_GAP_CHANGE_M

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

type Pose = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Position (3,) of the grip site, m, and orientation (3, 3), where they are to be at the moment of the call."""

STRAIGHT = np.pi / 2
"""Direction in which the fingers close when the wrist is straight, rad: along world y."""
HOME_M = (0.45, 0.0, 0.26)
"""Where every episode starts, seen from the robot's base."""
PATIENCE_STEPS = 80
"""Steps after which a way that does not lead to its end is given up."""


class Motion(ABC):
    """Skill that is written as one sequence of motions; it starts over if the goal is not reached in the end.

    Implements :class:`~lerobot_atlasvla.libero.experts.motion.Skill`.

    Args:
        env: A LIBERO ``ControlEnv`` with relative OSC_POSE control at 20 Hz.
        goal: LIBERO's predicate: its name and arguments.
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

    def holds(self) -> bool:
        """Tell whether the predicate is true."""
        return bool(self._env.env._eval_predicate(self.goal))

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
        speed: float = 1.0,
    ) -> Iterator[np.ndarray]:
        """Move until the hand is at ``pose``, which may move, or patience ends."""
        for _ in range(patience):
            position, rotation = pose()
            off = float(np.linalg.norm(position - self.hand.position))
            turned = np.arccos(np.clip((np.trace(rotation @ self.hand.rotation.T) - 1) / 2, -1, 1))
            if off < tolerance_m and turned < tolerance_rad:
                return
            self.free_motion = self.phase is Phase.REACH and off > FREE_MOTION_M
            yield self.hand.move(position, rotation, gripper, speed)
        self.free_motion = False

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

    def _from_body(self, name: str, point: tuple[float, float, float]) -> np.ndarray:
        """Return the world position, (3,), of a point given in a body's frame."""
        data, body = self._env.sim.data, self._env.sim.model.body_name2id(name)
        return data.body_xpos[body] + data.body_xmat[body].reshape(3, 3) @ np.array(point)


# Wooden cabinet, as LIBERO places it: turned by half a turn, drawers open toward +y. The handles are bars along x,
# 16 mm thick, 8 mm in front of a gap of 16 mm.
HANDLES_M = {"top": (-0.002, -0.102, 0.184), "middle": (-0.002, -0.102, 0.110), "bottom": (-0.002, -0.102, 0.040)}
"""Middle of the handle in the drawer's frame."""
APPROACH_M = 0.10
CLEAR_M = 0.06
OVERSHOOT_M = 0.008
"""How far beyond "open" to pull: the drawer springs back a little when it is let go."""


class OpenDrawer(Motion):
    """Takes a drawer's handle from the front, fingers above and below it, and pulls.

    Args:
        env: A LIBERO ``ControlEnv``.
        region: Site of the drawer's inside, such as ``wooden_cabinet_1_top_region``.
        tilt: How far the fingers point forward, rad; 0 is down, a quarter turn horizontal.
    """

    def __init__(self, env: ControlEnv, region: str, tilt: float = 1.3) -> None:
        cabinet, level, _ = region.rsplit("_", 2)
        self._joint_name = f"{cabinet}_{level}_level"
        self._body_name = f"{cabinet}_cabinet_{level}"
        self._handle_m = HANDLES_M[level]
        self._rotation = about_x(-tilt) @ facing_down(STRAIGHT)
        super().__init__(env, ("open", region))

    def _handle(self) -> np.ndarray:
        return self._from_body(self._body_name, self._handle_m)

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


class TurnKnob(Motion):
    """Takes the stove's knob by its bar and turns it on, counter-clockwise.

    Args:
        env: A LIBERO ``ControlEnv``.
        stove: Body name of the stove.
    """

    GRASP_M = 0.036
    """Height of the grasp above the stove's origin; the bar ends at 0.050."""
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
        yield from self._go(lambda: (knob + up(0.12), rotation), OPEN, tolerance_m=0.02)
        at_knob = knob + up(self.GRASP_M)
        yield from self._go(lambda: (at_knob, rotation), OPEN, tolerance_m=0.008, patience=40)
        yield from self._close(lambda: (at_knob, rotation))
        self.phase = Phase.TURN
        for _ in range(PATIENCE_STEPS):
            angle = self._joint(self._joint_name)
            if angle > self.ON_RAD:
                break
            yield self.hand.move(at_knob, about_z(angle + self.LEAD_RAD) @ facing_down(STRAIGHT), CLOSED)
        yield from self._open()
        yield from self._retreat(up(0.10))


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
