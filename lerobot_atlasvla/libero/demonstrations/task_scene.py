"""The environment of one LIBERO task, whose placements depend on their seed alone."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.patches.displacement import displace, displacement_rng, target_xy, vector_in_cm
from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ, SETTLE_STEPS, SPATIAL

NO_OP = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Displacement:
    """Displacement of the objects of an attempt.

    Attributes:
        vector_cm: The vector drawn, along x and y of the world.
        target_moved_cm: How far the object to be moved got by that and by settling, along x and y.
    """

    vector_cm: tuple[float, float]
    target_moved_cm: tuple[float, float]


def entropy_of(suite: str, seed: int, task_id: int, attempt: int) -> list[int]:
    """Return what all random numbers of an attempt are drawn from, which no other attempt has."""
    # libero_spatial was the first suite, and draws what it always has.
    return [seed, task_id, attempt] if suite == SPATIAL else [seed, task_id, attempt, zlib.crc32(suite.encode())]


class TaskScene:
    """Simulates one task of LIBERO, and resets it with or without displaced objects.

    Args:
        suite: LIBERO suite.
        task_id: Task number within the suite.
        image_size: Height and width of both cameras, pixels.
    """

    def __init__(self, suite: str, task_id: int, image_size: int) -> None:
        from lerobot_atlasvla.libero.setup import prepare_libero

        prepare_libero()
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        self.task = benchmark.get_benchmark_dict()[suite]().get_task(task_id)
        # The arguments of LeRobot's LiberoEnv, so that demonstrations look like evaluation. Hard resets: soft ones keep
        # the previous episode's fixture poses, which spoils random placements in the drawer and on the stove.
        self.env = OffScreenRenderEnv(
            bddl_file_name=os.path.join(get_libero_path("bddl_files"), self.task.problem_folder, self.task.bddl_file),
            camera_heights=image_size,
            camera_widths=image_size,
            control_freq=CONTROL_FREQ_HZ,
            hard_reset=True,
        )
        self.displacement: Displacement | None = None
        """How the last :meth:`reset` displaced the objects."""

    def close(self) -> None:
        """Free the simulator and its GL context."""
        self.env.close()

    def reset(
        self,
        placement_seed: int,
        displace_cm: float = 0.0,
        initial_state: np.ndarray | None = None,
        arm_offset: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Set a placement, displace it, let it settle, and look.

        Args:
            placement_seed: Seed of LIBERO's placement samplers (numpy's global generator), below 2**32, and of the
                displacement.
            displace_cm: Largest displacement of the objects along x and along y, cm; 0 is none.
            initial_state: One of the task's fixed initial states, flattened, instead of a random placement (of all
                but the fixtures).
            arm_offset: Added to the joint positions that the arm usually starts from, (7,), rad.

        Returns:
            The raw observation, fresh at the moment of the call.

        Raises:
            DisplacementError: If no displacement leads to a valid placement.
        """
        # LIBERO appends to this list at every hard reset and draws from numpy's generator once per entry: without
        # clearing it, placements would depend on how many resets this process has seen.
        self.env.env.object_property_initializers.clear()
        self._enable_sensors(False)  # rendering is the cost of a step, and nobody looks while things settle
        self.env.seed(placement_seed)
        # A hard reset would render every camera a few times just to learn the shape of its image.
        self.env.env.use_camera_obs = False
        self._set_arm_start(arm_offset)
        self.env.reset()
        self.env.env.use_camera_obs = True
        if initial_state is not None:
            self.env.set_init_state(initial_state)
        self.displacement = None
        if displace_cm:
            # Before anything settles, as in evaluation.
            placed = target_xy(self.env)
            vector, _ = displace(self.env, displace_cm, displacement_rng(placement_seed, initial_state))
            self._settle()
            self.displacement = Displacement(vector_in_cm(vector), vector_in_cm(target_xy(self.env) - placed))
        else:
            self._settle()
        # Enabling also restarts the sensors' clocks. Otherwise every reset would shift the moment within a control step
        # at which robosuite looks, and observations would again depend on how many resets there were.
        self._enable_sensors(True)
        return self.env.env._get_observations(force_update=True)

    def _set_arm_start(self, offset: np.ndarray | None) -> None:
        """Have the next reset, which builds the robot anew, start its arm elsewhere; None is its usual posture."""
        (robot,) = self.env.env.robots
        (settings,) = self.env.env.robot_configs
        settings["initial_qpos"] = None if offset is None else robot.robot_model.init_qpos + offset

    def _settle(self) -> None:
        for _ in range(SETTLE_STEPS):
            self.env.step(NO_OP)

    def _enable_sensors(self, enabled: bool) -> None:
        for name in self.env.env.observation_names:
            self.env.env.modify_observable(name, "enabled", enabled)


_kept: dict[tuple[type[TaskScene], str, int, int], TaskScene] = {}


def kept_scene[S: TaskScene](kind: type[S], suite: str, task_id: int, image_size: int) -> S:
    """Return this process's scene of a task: the last one, or a new one in its place if it is another task's."""
    key = (kind, suite, task_id, image_size)
    scene = _kept.get(key)
    if not isinstance(scene, kind):
        while _kept:
            _kept.popitem()[1].close()
        scene = _kept[key] = kind(suite, task_id, image_size)
    return scene
