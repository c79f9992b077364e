"""Render states of a LIBERO task from random cameras: what a worker process of ``atlasvla-collect-geometry`` runs.

An episode is a pure function of the settings, the task and its number, as an attempt of ``atlasvla-collect`` is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.cameras.views import View, Viewer
from lerobot_atlasvla.libero.demonstrations.episode import ActionNoise, Attempt
from lerobot_atlasvla.libero.demonstrations.task_scene import TaskScene, entropy_of, kept_scene
from lerobot_atlasvla.libero.experts.scripted import ScriptedExpert
from lerobot_atlasvla.libero.geometry_data.arm import Arm
from lerobot_atlasvla.libero.geometry_data.schema import GeometryEpisode
from lerobot_atlasvla.libero.geometry_data.settings import EXPERT, FIXED, GeometryConfig, GeometryJob
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA, WRIST_CAMERA

GEOMETRY_STREAM = 22
"""Key of the random numbers of states and cameras."""
STEPS_AFTER_SUCCESS = 10
"""So that the release of the bowl is among the states."""


class StateScene(TaskScene):
    """One task's environment, put into states and rendered; kinematics only, but for the expert."""

    def render_episode(self, job: GeometryJob) -> Attempt:
        """Render one episode of states.

        Raises:
            NoPoseError: If the ranges leave no pose of the scene camera.
        """
        config = job.config
        entropy = entropy_of(job.suite, config.seed, job.task_id, job.attempt)
        sequence = np.random.SeedSequence(entropy, spawn_key=(GEOMETRY_STREAM,))
        placement_seed, seed = sequence.generate_state(2)
        rng = np.random.default_rng(seed)
        sources = config.sources_of(job.suite)
        source, turn = sources[job.attempt % len(sources)], job.attempt // len(sources)
        fixed = self.fixed_states() if source == FIXED else None
        self.reset(int(placement_seed), initial_state=None if fixed is None else fixed[turn % len(fixed)])
        if source == EXPERT:
            states = self._expert_states(config, rng)
        else:
            states = [self.env.sim.data.qpos.copy()] * config.states_per_episode
        viewer = Viewer(self.env, config.image_size, config.depth_cell_px)
        arm = Arm(self.env)
        observations: list[dict[str, Any]] = []
        views: dict[str, list[View]] = {view: [] for view in config.views}
        for state in states:
            arm.put(state)
            if source != EXPERT and rng.random() < config.reach_share:
                arm.reach(rng)
            if rng.random() < config.posture_share:
                arm.disturb(rng.choice(config.posture_noise), rng)
            if rng.random() < config.object_share:
                arm.scatter(config.object_offset_cm / 100, config.layout_offset_cm / 100, rng)
            observations.append(self.env.env._get_observations(force_update=True))
            wrist, *scenes = config.views
            views[wrist].append(viewer.render(WRIST_CAMERA, object_coordinates=True))
            for name in scenes:
                pose = config.draw(viewer.nominal, rng, viewer.suits)
                views[name].append(viewer.render(SCENE_CAMERA, pose, object_coordinates=True))
        parts = ("eef_pos", "eef_quat", "gripper_qpos")
        pos, quat, fingers = (np.stack([seen[f"robot0_{part}"] for seen in observations]) for part in parts)
        return Attempt(
            self.task.name,
            self.task.language,
            GeometryEpisode(views, pos, quat, fingers),
            frames_of_reference=viewer.frames_of_reference(pos[-1], quat[-1]),
        )

    def fixed_states(self) -> np.ndarray:
        """Return LIBERO's fixed initial states of the task, (states, state size), read without running any code."""
        import torch
        from libero.libero import get_libero_path
        from numpy._core.multiarray import _reconstruct

        path = Path(get_libero_path("init_states")) / self.task.problem_folder / self.task.init_states_file
        allowed = [_reconstruct, np.ndarray, np.dtype, type(np.dtype(np.float64))]
        with torch.serialization.safe_globals([(_reconstruct, "numpy.core.multiarray._reconstruct"), *allowed]):
            return np.asarray(torch.load(path, weights_only=True))

    def _expert_states(self, config: GeometryConfig, rng: np.random.Generator) -> list[np.ndarray]:
        """Let the expert work, with noise, and take down every n-th state and the last."""
        expert = ScriptedExpert(self.env, self.task.name)
        expert.reset()
        noise = ActionNoise(config.noise, rng)
        states, step, last = [], 0, config.max_steps
        while step < last:
            if step % config.every_steps == 0:
                states.append(self.env.sim.data.qpos.copy())
            action = expert.act()
            _, _, success, _ = self.env.step(noise(action, expert.free_motion))
            step += 1
            if success:
                last = min(last, step + STEPS_AFTER_SUCCESS)
        return [*states, self.env.sim.data.qpos.copy()]

    def _enable_sensors(self, enabled: bool) -> None:
        """Leave the cameras off: states are rendered when they are in place."""
        for name in self.env.env.observation_names:
            self.env.env.modify_observable(name, "enabled", enabled and not name.endswith("_image"))


def run_job(job: GeometryJob) -> Attempt:
    """Render one episode in this worker, keeping the environment for the next one of the same task."""
    return kept_scene(StateScene, job.suite, job.task_id, job.config.image_size).render_episode(job)
