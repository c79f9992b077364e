"""Mishaps from which a demonstration can start: a missed grasp, a lost bowl, a pushed bowl.

A policy that imitates an expert who never fails has not seen what to do after a failure. Here the expert plays a policy
that fails: it grasps beside the bowl, or loses it, or drags it along, and goes on as if nothing had happened. What it
does is never a label; the demonstration starts afterward, with the expert showing the way back. The idea
is that of DART (Laskey et al. 2017), noise injected while demonstrating, with failures in place of noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np

from lerobot_atlasvla.libero.experts.grasps import RIM_RADIUS_M
from lerobot_atlasvla.libero.experts.motion import CLOSED, OPEN, Phase
from lerobot_atlasvla.libero.experts.pick_place import PickAndPlace
from lerobot_atlasvla.libero.experts.plan import Pick
from lerobot_atlasvla.libero.experts.scripted import plan_of

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

MAX_STEPS = 220
"""Control steps after which a mishap that did not come about is given up."""

# Missed grasp. The fingers open to 4 cm on either side and center themselves on what they touch: smaller offsets than
# these take the bowl after all. Toward the outside, the inside, upwards, and along the rim; meters.
BESIDE_M = (0.050, 0.070)
INSIDE_M = (0.043, 0.055)
ABOVE_M = (0.030, 0.045)
ALONG_M = 0.02
MISS_PATIENCE_STEPS = 50
"""Reaching takes 25 to 40 steps. After this many the fingers stand on something (the drawer's wall) and close there."""
EMPTY_HANDED_STEPS = 40
"""At most so long does it lift and carry nothing: about the way to the plate."""
ARRIVED_M = 0.03
"""It stops this close to where it would set the bowl down: further down a stretched arm locks its elbow."""

# Lost bowl: where on the way to the plate, as a share of the way that is left; and for how long the fingers open.
WAY_LEFT = (0.3, 1.0)
LOSE_BEFORE_M = 0.12
"""Nothing is lost this close to the plate's center: it would fall into place, or lean on the plate's edge."""
LOSE_ABOVE_M = 0.02
"""The bowl is lifted by this much before it is lost."""
LOST_OPEN_STEPS = (3, 10)
LOST_CLOSED_STEPS = 10

# Pushed bowl: how far and how long the open fingers go sideways; 4 cm of it bring them to the bowl's wall.
PUSH_M = (0.06, 0.09)
PUSH_SPREAD_RAD = np.pi / 3
"""Largest angle from square to the rim at which it pushes: along the rim the fingers slide past the bowl."""
PUSH_STEPS = (8, 16)

UPRIGHT = 0.9
"""Least cosine of the bowl's tilt: the expert grasps bowls that stand."""


class Mishap(StrEnum):
    """Names what goes wrong before a demonstration: a missed grasp, a lost bowl or a pushed one."""

    MISSED = "missed"
    LOST = "lost"
    PUSHED = "pushed"


_SHARES = {Mishap.MISSED: 0.5, Mishap.LOST: 0.3, Mishap.PUSHED: 0.2}
"""Probability of each; a missed grasp is what policies do most."""


def has_mishaps(task_name: str) -> bool:
    """Return whether mishaps are known for a task: it has to start with taking a bowl by its rim."""
    first = plan_of(task_name)[0]
    return isinstance(first, Pick) and first.grasp.radius_m == RIM_RADIUS_M


class ClumsyExpert(PickAndPlace):
    """Expert that can be made to grasp beside the bowl and never notices that its fingers are empty.

    Args:
        env: A LIBERO ``ControlEnv`` with relative OSC_POSE control at 20 Hz.
        task_name: LIBERO's name of a task for which :func:`has_mishaps` is true.
    """

    def __init__(self, env: ControlEnv, task_name: str) -> None:
        if not has_mishaps(task_name):
            raise ValueError(f"No mishap is known for the task {task_name!r}, which does not start at a bowl's rim.")
        skill = cast(PickAndPlace, plan_of(task_name)[0](env))
        super().__init__(env, skill.goal, skill.grasp, skill.place)

    def reset(self) -> None:
        """Start over, without any offset; to be called after the environment was reset."""
        super().reset()
        self._miss = np.zeros(3)

    def _observe(self) -> None:
        super()._observe()
        if self.phase in (Phase.LIFT, Phase.CARRY):
            # What it believes to hold moves with the hand.
            self._object = self.hand.position - self._held
        self._aim(self._miss)

    def draw(self, rng: np.random.Generator) -> Mishap:
        """Draw what is to go wrong; between walls a bowl is never pushed."""
        kinds = [mishap for mishap in Mishap if mishap is not Mishap.PUSHED or not self.grasp.walled]
        shares = np.array([_SHARES[mishap] for mishap in kinds])
        return kinds[rng.choice(len(kinds), p=shares / shares.sum())]

    def act_out(self, mishap: Mishap, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Do everything up to the moment at which the demonstration starts.

        Args:
            mishap: What is to go wrong.
            rng: Source of everything random about it.

        Yields:
            One action for each control step, as :meth:`act` returns them, at most :data:`MAX_STEPS`; each must be
            executed before the next is asked for. Check :meth:`went_wrong` afterward.
        """
        self.reset()
        self._finished = False
        acts = {Mishap.MISSED: self._miss_it, Mishap.LOST: self._lose_it, Mishap.PUSHED: self._push_it}
        yield from islice(acts[mishap](rng), MAX_STEPS)

    def went_wrong(self) -> bool:
        """Tell whether there is something to recover from and a way to do it.

        Returns:
            True if the mishap came to its end, the bowl stands, and it is neither in the gripper nor on the plate.
        """
        env = self._env.env
        held = env._check_grasp(gripper=env.robots[0].gripper, object_geoms=env.get_object(self._object_name))
        upright = self._env.sim.data.body_xmat[env.obj_body_id[self._object_name]][8] > UPRIGHT
        return self._finished and bool(upright) and not held and not self.holds()

    def _miss_it(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        out, up = 0.0, 0.0
        match rng.integers(2 if self.grasp.walled else 3):
            case 0:
                out = -rng.uniform(*INSIDE_M)
            case 1:
                up = rng.uniform(*ABOVE_M)
            case _:
                out = rng.uniform(*BESIDE_M)
        c, s = np.cos(self._angle), np.sin(self._angle)
        along = rng.uniform(-ALONG_M, ALONG_M)
        self._miss = np.array([out * c - along * s, out * s + along * c, up])
        empty_handed = int(rng.integers(EMPTY_HANDED_STEPS + 1))
        while self.phase in (Phase.REACH, Phase.CLOSE):
            yield self.act()
            if self.phase is Phase.REACH and self._phase_steps >= MISS_PATIENCE_STEPS:
                self._enter(Phase.CLOSE)
        for _ in range(empty_handed):
            yield self.act()
            if self._place_error < ARRIVED_M:
                break
        self._finished = True

    def _lose_it(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        share = rng.uniform(*WAY_LEFT)
        open_steps = int(rng.integers(LOST_OPEN_STEPS[0], LOST_OPEN_STEPS[1] + 1))
        # Half of the time the fingers are still open, or opening, when the demonstration starts.
        closed_steps = max(0, int(rng.integers(-LOST_CLOSED_STEPS, LOST_CLOSED_STEPS + 1)))
        while self.phase in (Phase.REACH, Phase.CLOSE):
            yield self.act()
        way = max(share * self._place_error, LOSE_BEFORE_M)
        while self._place_error > way or self.hand.position[2] - self._lift_from < LOSE_ABOVE_M:
            yield self.act()
        for gripper in [OPEN] * open_steps + [CLOSED] * closed_steps:
            action = self.act()
            action[6] = gripper
            yield action
        self._finished = True

    def _push_it(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        angle = self._angle + np.pi * rng.integers(2) + rng.uniform(-PUSH_SPREAD_RAD, PUSH_SPREAD_RAD)
        distance = rng.uniform(*PUSH_M)
        steps = int(rng.integers(PUSH_STEPS[0], PUSH_STEPS[1] + 1))
        while True:
            action = self.act()
            if self.phase is not Phase.REACH:
                break
            yield action
        # Instead of closing astride the rim, sideways.
        target = self.hand.position + distance * np.array([np.cos(angle), np.sin(angle), 0.0])
        for _ in range(steps):
            self._observe()
            yield self._move(target, OPEN)
        self._finished = True
