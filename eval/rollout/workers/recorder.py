"""A layer around LeRobot's environment: notes of an episode, what is seen perturbed, another judge, the retreat."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from eval.rollout.workers.scene import Judge, Judgment, Perturbation
from lerobot_atlasvla.libero.patches.frame_skipping import render_every

if TYPE_CHECKING:
    from lerobot_atlasvla.inspection.attention import AttentionRecorder, ChunkAttention


class EpisodeRecorder(gym.Wrapper):
    """Notes what LeRobot's evaluator does not report: every state of the simulator, and the chunk being executed.

    Args:
        env: LeRobot's ``LiberoEnv``.
        attention: Recorder of the policy's attention, if videos show it.
        scene_view: Name of the scene camera's image in the observations; None if the policy does not look at it.
        retreat_steps: Steps that an episode goes on after a success.
    """

    def __init__(
        self,
        env: gym.Env,
        attention: "AttentionRecorder | None" = None,
        scene_view: str | None = None,
        retreat_steps: int = 0,
    ) -> None:
        super().__init__(env)
        self._attention = attention
        self._scene_view = scene_view
        self._retreat_steps = retreat_steps
        self._success_step: int | None = None
        self.perturbation: Perturbation | None = None
        self.judge: Judge | None = None
        self.judgment: Judgment | None = None
        self.seed = 0
        self.states: list[np.ndarray] = []
        """Return one per image: after the reset and after every step."""
        self.chunks: list[ChunkAttention] = []
        """One per step, if attention is recorded."""
        self.gripper_m: list[np.ndarray] = []
        """Position of the gripper in the world, (3,), one per state."""

    @property
    def steps(self) -> int:
        """Return the number of steps since the reset, until the success if there was one."""
        return self._taken if self._success_step is None else self._success_step

    @property
    def _taken(self) -> int:
        return len(self.states) - 1

    def reset(self, **kwargs: Any) -> Any:
        """Reset, and forget the episode before."""
        if self.perturbation is not None:
            self.perturbation.prepare(self.unwrapped)
        observation, info = self.env.reset(**kwargs)
        self.states, self.chunks, self.gripper_m, self._success_step = [], [], [], None
        self._note()
        self.judgment = self.judge.assess(self.unwrapped, None) if self.judge is not None else None
        return self._seen(observation), info

    def step(self, action: Any) -> Any:
        """Step, and note where it led."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._note()
        if self._attention is not None:
            self.chunks.append(self._attention.chunks[-1])
        if self.judge is not None:
            self.judgment = self.judge.assess(self.unwrapped, self.judgment)
            info["is_success"], terminated = self.judgment.success, self.judgment.over
        if self._success_step is None and info["is_success"]:
            self._success_step = self._taken
        if self._success_step is not None:
            env: Any = self.unwrapped
            info["is_success"] = True  # whatever the retreat does to it
            terminated = self._taken >= min(self._success_step + self._retreat_steps, env._max_episode_steps)
        return self._seen(observation), reward, terminated, truncated, info

    def _seen(self, observation: Any) -> Any:
        # Images that are not rendered anew are not looked at, either.
        if self.perturbation is None or self._taken % render_every():
            return observation
        env: Any = self.unwrapped
        return self.perturbation.observe(observation, env.num_steps_wait + self._taken, self.seed, self._scene_view)

    def _note(self) -> None:
        env: Any = self.unwrapped
        self.states.append(self._state())
        self.gripper_m.append(env._env.sim.data.site_xpos[env._env.robots[0].eef_site_id].copy())

    def _state(self) -> np.ndarray:
        env: Any = self.unwrapped
        return env._env.sim.get_state().flatten()
