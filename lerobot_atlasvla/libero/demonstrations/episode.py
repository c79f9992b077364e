"""Simulate one scripted demonstration: what a worker process of ``atlasvla-collect`` runs.

An attempt is a pure function of (suite, task, seed, attempt number, settings): nothing of it depends on what the same
process simulated before, so any number of workers produces the same data.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.demonstrations.schema import Trajectory
from lerobot_atlasvla.libero.experts.mishaps import ClumsyExpert, has_mishaps
from lerobot_atlasvla.libero.experts.scripted import Phase, ScriptedExpert
from lerobot_atlasvla.libero.patches.displacement import displace, displacement_rng, target_xy, vector_in_cm
from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ, SCENE_OBSERVATION, SETTLE_STEPS, WRIST_OBSERVATION

NO_OP = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])

# Noise on the executed action at `noise=1`: the largest that leaves the expert's success rate alone. It takes the arm
# off the expert's path, so that the data show how to come back to it.
NOISE_CORRELATION = 0.7
NOISE_STD = np.array([0.3, 0.3, 0.3, 0.05, 0.05, 0.05])
NEAR_CONTACT_SCALE = 0.3
"""Close to the bowl or the plate the noise is this much weaker and there are no kicks: failures teach nothing."""
KICK_PROBABILITY = 0.02
KICK_STEPS = (3, 6)

RECOVERY_STREAM = 18
"""Key of the random numbers that mishaps draw, apart from those of placement and noise."""
RECOVERY_GRASPS = 2
"""A way back that takes more grasps than this is no demonstration: the bowl leans on something and slips every time."""


@dataclass(frozen=True)
class Job:
    """One attempt to simulate.

    Attributes:
        suite: LIBERO suite.
        task_id: Task number within the suite.
        attempt: Attempt number of this task, from 0.
        seed: The dataset's seed.
        image_size: Height and width of both cameras, pixels.
        noise: Scale of the noise on executed actions; 0 is none.
        extra_steps: Steps recorded after the first success.
        max_steps: Steps after which the attempt has failed.
        displace_cm: Largest displacement of the objects along x and along y, cm; 0 is none.
        recovery_share: Probability, 0 to 1, that the attempt starts from a mishap.
    """

    suite: str
    task_id: int
    attempt: int
    seed: int
    image_size: int
    noise: float
    extra_steps: int
    max_steps: int
    displace_cm: float = 0.0
    recovery_share: float = 0.0


@dataclass(frozen=True)
class Displacement:
    """Displacement of the objects of an attempt.

    Attributes:
        vector_cm: The vector drawn, along x and y of the world.
        target_moved_cm: How far the object to be moved got by that and by settling, along x and y.
    """

    vector_cm: tuple[float, float]
    target_moved_cm: tuple[float, float]


@dataclass(frozen=True)
class Attempt:
    """Outcome of a :class:`Job`.

    Attributes:
        task_name: LIBERO's name of the task.
        instruction: What a policy is told.
        trajectory: The demonstration; None if the task was not solved or did not stay solved.
        displacement: How the objects were displaced; None if they were not.
        recovery: Whether the attempt started from a mishap.
        solved_at_start: Whether the placement drawn was a solution, so that there was nothing to demonstrate.
    """

    task_name: str
    instruction: str
    trajectory: Trajectory | None
    displacement: Displacement | None = None
    recovery: bool = False
    solved_at_start: bool = False


class ActionNoise:
    """First-order autoregressive noise with rare kicks, on the six motion dimensions (the gripper is left alone).

    Args:
        scale: 1 for the tuned amount, 0 for none.
        rng: Source of randomness; it is drawn from equally often whatever ``scale`` is.
    """

    def __init__(self, scale: float, rng: np.random.Generator) -> None:
        self._scale = scale
        self._rng = rng
        self._noise = np.zeros(6)
        self._kick: np.ndarray = np.zeros(3)
        self._kick_steps = 0

    def __call__(self, action: np.ndarray, free_motion: bool) -> np.ndarray:
        """Disturb one action.

        Args:
            action: The expert's action, (7,) in [-1, 1].
            free_motion: Whether the arm is away from everything delicate.

        Returns:
            The action to execute instead, (7,) in [-1, 1].
        """
        fresh = self._rng.normal(size=6) * NOISE_STD * np.sqrt(1 - NOISE_CORRELATION**2)
        self._noise = NOISE_CORRELATION * self._noise + fresh
        if self._kick_steps == 0 and self._rng.random() < KICK_PROBABILITY:
            self._kick_steps = int(self._rng.integers(KICK_STEPS[0], KICK_STEPS[1] + 1))
            self._kick = self._rng.uniform(-1, 1, 3)
        executed = np.array(action, dtype=np.float64)
        scale = self._scale * (1.0 if free_motion else NEAR_CONTACT_SCALE)
        executed[:6] += scale * self._noise
        if self._kick_steps > 0:
            self._kick_steps -= 1
            if free_motion:
                # At full scale a kick replaces the motion for a moment; below, it bends it.
                blend = min(1.0, self._scale)
                executed[:3] = (1 - blend) * executed[:3] + blend * self._kick
        executed[:6] = np.clip(executed[:6], -1.0, 1.0)
        return executed


class Demonstrator:
    """One task's environment and expert.

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
        self._expert = ScriptedExpert(self.env, self.task.name)
        self.displacement: Displacement | None = None
        """How the last :meth:`reset` displaced the objects."""
        self._clumsy = ClumsyExpert(self.env, self.task.name) if has_mishaps(self.task.name) else None

    def close(self) -> None:
        """Free the simulator and its GL context."""
        self.env.close()

    def reset(self, placement_seed: int, displace_cm: float = 0.0) -> dict[str, Any]:
        """Sample a random placement, displace it, let it settle, and look.

        Args:
            placement_seed: Seed of LIBERO's placement samplers (numpy's global generator), below 2**32, and of the
                displacement.
            displace_cm: Largest displacement of the objects along x and along y, cm; 0 is none.

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
        self.env.reset()
        self.env.env.use_camera_obs = True
        placed = vector = None
        if displace_cm:
            # Before anything settles, as in evaluation.
            placed = target_xy(self.env)
            vector, _ = displace(self.env, displace_cm, displacement_rng(placement_seed))
        for _ in range(SETTLE_STEPS):
            self.env.step(NO_OP)
        self.displacement = None
        if vector is not None and placed is not None:
            self.displacement = Displacement(vector_in_cm(vector), vector_in_cm(target_xy(self.env) - placed))
        # Enabling also restarts the sensors' clocks. Otherwise every reset would shift the moment within a control step
        # at which robosuite looks, and observations would again depend on how many resets there were.
        self._enable_sensors(True)
        self._expert.reset()
        return self.env.env._get_observations(force_update=True)

    def _enable_sensors(self, enabled: bool) -> None:
        for name in self.env.env.observation_names:
            self.env.env.modify_observable(name, "enabled", enabled)

    def attempt(self, job: Job) -> Attempt:
        """Simulate one attempt.

        Args:
            job: The attempt; its suite, task and image size must be this object's.

        Returns:
            The trajectory up to ``job.extra_steps`` past the first success, or none if the task was not solved within
            ``job.max_steps`` or did not stay solved.
        """
        entropy = [job.seed, job.task_id, job.attempt]
        placement_seed, noise_seed = np.random.SeedSequence(entropy).generate_state(2)
        noise = ActionNoise(job.noise, np.random.default_rng(noise_seed))
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(RECOVERY_STREAM,)))
        recovery = self._clumsy is not None and rng.random() < job.recovery_share
        observation = self.reset(int(placement_seed), job.displace_cm)
        if self.env.check_success():
            return Attempt(self.task.name, self.task.language, None, self.displacement, solved_at_start=True)
        if self._clumsy is not None and recovery:
            observation = self._go_wrong(self._clumsy, job.noise, rng)
        observations, actions = [], []
        steps_left = job.max_steps if observation is not None else 0
        solved = False
        while steps_left > 0:
            # Through float32, as stored: replaying a noise-free episode's labels repeats it exactly.
            label = self._expert.act().astype(np.float32)
            if recovery and self._expert.grasps > RECOVERY_GRASPS:
                break
            observations.append(observation)
            actions.append(label)
            observation, _, success, _ = self.env.step(noise(label, self._expert.free_motion))
            steps_left -= 1
            if success and not solved:
                solved = True
                steps_left = job.extra_steps
        # What is set down and then knocked off the plate while retreating is no demonstration.
        solved = solved and bool(self.env.check_success())
        if recovery:
            # Nor is what fell onto the plate by itself, or is about to be grasped once more.
            solved = solved and self._expert.phase in (Phase.CARRY, Phase.RELEASE, Phase.RETREAT, Phase.DONE)
        trajectory = _trajectory(observations, actions) if solved else None
        return Attempt(self.task.name, self.task.language, trajectory, self.displacement, recovery)

    def _go_wrong(self, clumsy: ClumsyExpert, noise_scale: float, rng: np.random.Generator) -> dict[str, Any] | None:
        """Simulate a random mishap, unseen and unrecorded; see :mod:`lerobot_atlasvla.libero.experts.mishaps`.

        Args:
            clumsy: Who does it.
            noise_scale: Scale of the noise on executed actions.
            rng: Source of everything random about it.

        Returns:
            The raw observation afterward, or None if there is nothing to recover from or no way to do it.
        """
        noise = ActionNoise(noise_scale, rng)
        self._enable_sensors(False)
        for action in clumsy.act_out(clumsy.draw(rng), rng):
            self.env.step(noise(action, clumsy.free_motion))
        self._enable_sensors(True)
        if not clumsy.went_wrong():
            return None
        return self.env.env._get_observations(force_update=True)


def _trajectory(observations: list[dict[str, Any]], actions: list[np.ndarray]) -> Trajectory:
    def stack(key: str) -> np.ndarray:
        return np.stack([observation[key] for observation in observations])

    return Trajectory(
        agentview=stack(SCENE_OBSERVATION),
        wrist=stack(WRIST_OBSERVATION),
        eef_pos=stack("robot0_eef_pos"),
        eef_quat=stack("robot0_eef_quat"),
        gripper_qpos=stack("robot0_gripper_qpos"),
        actions=np.stack(actions),
    )


# -- worker process ----------------------------------------------------------------------------------------------------

_current: dict[tuple[str, int, int], Demonstrator] = {}


def start_worker() -> None:
    """Initialize a worker process: it ends when its parent does, however the parent ends."""
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def follow_parent() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def run_job(job: Job) -> Attempt:
    """Simulate one attempt in this worker, keeping the environment for the next one of the same task."""
    key = (job.suite, job.task_id, job.image_size)
    if key not in _current:
        while _current:
            _current.popitem()[1].close()
        _current[key] = Demonstrator(*key)
    return _current[key].attempt(job)
