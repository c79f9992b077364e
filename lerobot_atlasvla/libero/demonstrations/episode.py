"""Simulate one scripted demonstration: what a worker process of ``atlasvla-collect`` runs.

An attempt is a pure function of (suite, task, seed, attempt number, settings): nothing of it depends on what the same
process simulated before, so any number of workers produces the same data.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.cameras.features import geometry_arrays
from lerobot_atlasvla.libero.cameras.ranges import CameraPose, RandomCameraConfig
from lerobot_atlasvla.libero.cameras.views import Viewer, restore, snapshot
from lerobot_atlasvla.libero.demonstrations.schema import SCENE_VIEW, WRIST_VIEW, Episode, Trajectory, rotate_image
from lerobot_atlasvla.libero.demonstrations.task_scene import Displacement, TaskScene, entropy_of, kept_scene
from lerobot_atlasvla.libero.experts.mishaps import ClumsyExpert, has_mishaps
from lerobot_atlasvla.libero.experts.scripted import Phase, ScriptedExpert
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA, SCENE_OBSERVATION, WRIST_CAMERA, WRIST_OBSERVATION

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
"""A way back with more grasps of one thing than this is no demonstration: the bowl leans on something and slips."""
CAMERA_STREAM = 19
"""Key of the random numbers that poses of the scene camera draw."""
ARM_STREAM = 20
"""Key of the random numbers that the arm's posture at the start draws."""
ARM_JOINTS = 7
SNAPSHOT = "atlasvla_snapshot"
"""Name of the sensor that takes down the poses of everything, at the moment at which the cameras look."""


@dataclass(frozen=True)
class Job:
    """Describes one attempt that a worker is to simulate.

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
        arm_start_rad: Largest distance of the arm's joints from their usual posture at the start, rad; 0 is none.
        cameras: Where to render a demonstration from once more, and the cells of depth.
        store_geometry: Whether to keep depth, intrinsics and extrinsics of both cameras.
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
    arm_start_rad: float = 0.0
    cameras: RandomCameraConfig | None = None
    store_geometry: bool = False

    @property
    def renders_again(self) -> bool:
        """Return whether a demonstration is rendered once more when it is complete."""
        return self.cameras is not None and (bool(self.cameras.random_cameras) or self.store_geometry)


@dataclass(frozen=True)
class Attempt:
    """Holds what came of a :class:`Job`: the demonstration, if there is one, and facts for the record.

    Attributes:
        task_name: LIBERO's name of the task.
        instruction: What a policy is told.
        trajectory: The demonstration; None if the task was not solved or did not stay solved.
        displacement: How the objects were displaced; None if they were not.
        recovery: Whether the attempt started from a mishap.
        copies: The demonstration as other scene cameras see it.
        frames_of_reference: For the record, what the cameras' places refer to.
        solved_at_start: Whether the placement drawn was a solution, so that there was nothing to demonstrate.
        not_drawn: Why no valid displacement or camera pose was drawn; empty if one was.
    """

    task_name: str
    instruction: str
    trajectory: Episode | None
    displacement: Displacement | None = None
    recovery: bool = False
    copies: tuple[Episode, ...] = ()
    frames_of_reference: dict[str, Any] | None = None
    solved_at_start: bool = False
    not_drawn: str = ""

    @property
    def episodes(self) -> list[Episode]:
        """Return what is stored of the attempt, in order."""
        return [] if self.trajectory is None else [self.trajectory, *self.copies]


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
        """Add noise to one action, less of it near objects.

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


class Demonstrator(TaskScene):
    """One task's environment and expert.

    Args:
        suite: LIBERO suite.
        task_id: Task number within the suite.
        image_size: Height and width of both cameras, pixels.
    """

    def __init__(self, suite: str, task_id: int, image_size: int) -> None:
        super().__init__(suite, task_id, image_size)
        self._expert = ScriptedExpert(self.env, self.task.name)
        self._clumsy = ClumsyExpert(self.env, self.task.name) if has_mishaps(self.task.name) else None

    def reset(
        self,
        placement_seed: int,
        displace_cm: float = 0.0,
        initial_state: np.ndarray | None = None,
        arm_offset: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Reset scene and expert; see :meth:`TaskScene.reset`."""
        observation = super().reset(placement_seed, displace_cm, initial_state, arm_offset)
        self._expert.reset()
        return observation

    def take_snapshots(self) -> None:
        """Add the poses of everything to the observations from now on, under :data:`SNAPSHOT`."""
        from robosuite.utils.observables import Observable, sensor

        if SNAPSHOT in self.env.env.observation_names:
            return

        @sensor(modality=SNAPSHOT)
        def poses(_cache: dict[str, Any]) -> np.ndarray:
            return snapshot(self.env.sim)

        self.env.env.add_observable(Observable(SNAPSHOT, poses, sampling_rate=self.env.env.control_freq))

    def attempt(self, job: Job) -> Attempt:
        """Simulate one attempt and, if it succeeds, record the demonstration.

        Args:
            job: The attempt; its suite, task and image size must be this object's.

        Returns:
            The trajectory up to ``job.extra_steps`` past the first success, or none if the task was not solved within
            ``job.max_steps`` or did not stay solved.
        """
        entropy = entropy_of(job.suite, job.seed, job.task_id, job.attempt)
        placement_seed, noise_seed = np.random.SeedSequence(entropy).generate_state(2)
        noise = ActionNoise(job.noise, np.random.default_rng(noise_seed))
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(RECOVERY_STREAM,)))
        recovery = self._clumsy is not None and rng.random() < job.recovery_share
        if job.renders_again:
            self.take_snapshots()
        observation = self.reset(int(placement_seed), job.displace_cm, arm_offset=_arm_offset(job))
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
            solved = solved and self._expert.phase not in (Phase.REACH, Phase.CLOSE, Phase.LIFT)
        attempt = Attempt(self.task.name, self.task.language, None, self.displacement, recovery)
        if not solved:
            return attempt
        trajectory = _trajectory(observations, actions)
        if job.cameras is None or not job.renders_again:
            return replace(attempt, trajectory=trajectory)
        moments = [observation[SNAPSHOT] for observation in observations]
        (original, *copies), frames_of_reference = self._render_again(job, job.cameras, trajectory, moments)
        return replace(attempt, trajectory=original, copies=tuple(copies), frames_of_reference=frames_of_reference)

    def _render_again(
        self, job: Job, cameras: RandomCameraConfig, trajectory: Trajectory, moments: list[np.ndarray]
    ) -> tuple[list[Trajectory], dict[str, Any]]:
        """Render a demonstration from random scene cameras, and the geometry of all its views if that is asked for.

        Args:
            job: The attempt.
            cameras: Its cameras.
            trajectory: The demonstration.
            moments: Snapshots of its observations.

        Returns:
            The demonstration and a copy per random camera; what the cameras' places refer to.

        Raises:
            NoPoseError: If no pose will do.
        """
        viewer = Viewer(self.env, job.image_size, cameras.depth_cell_px)
        rng = np.random.default_rng(
            np.random.SeedSequence(
                entropy_of(job.suite, job.seed, job.task_id, job.attempt), spawn_key=(CAMERA_STREAM,)
            )
        )

        def suits(pose: CameraPose) -> bool:
            """Return whether a pose will do at the beginning, in the middle and at the end of the demonstration."""
            for moment in (moments[0], moments[len(moments) // 2], moments[-1]):
                restore(self.env.sim, moment)
                if not viewer.suits(pose):
                    return False
            return True

        poses: list[CameraPose | None] = [None] if job.store_geometry else []
        poses += [cameras.draw(viewer.nominal, rng, suits) for _ in range(cameras.random_cameras or 0)]
        wrist_views, scene_views = [], []
        for moment in moments:
            restore(self.env.sim, moment)
            if job.store_geometry:
                wrist_views.append(viewer.render(WRIST_CAMERA))
            scene_views.append([viewer.render(SCENE_CAMERA, pose) for pose in poses])
        seen = []
        for views in zip(*scene_views, strict=True):
            arrays = geometry_arrays(SCENE_VIEW, views) if job.store_geometry else {}
            arrays |= geometry_arrays(WRIST_VIEW, wrist_views) if job.store_geometry else {}
            images = rotate_image(np.stack([view.image for view in views]))
            seen.append(replace(trajectory, agentview=images, geometry=arrays))
        frames_of_reference = viewer.frames_of_reference(trajectory.eef_pos[-1], trajectory.eef_quat[-1])
        return seen if job.store_geometry else [trajectory, *seen], frames_of_reference

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


def _arm_offset(job: Job) -> np.ndarray | None:
    """Draw how far off its usual joint positions the arm starts, (7,), rad: in any direction, at any distance."""
    if not job.arm_start_rad:
        return None
    entropy = entropy_of(job.suite, job.seed, job.task_id, job.attempt)
    rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(ARM_STREAM,)))
    direction = rng.normal(size=ARM_JOINTS)
    return rng.uniform(0, job.arm_start_rad) * direction / np.linalg.norm(direction)


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
    return kept_scene(Demonstrator, job.suite, job.task_id, job.image_size).attempt(job)
