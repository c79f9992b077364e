"""One rollout of a checkpoint, by LeRobot's own evaluator: what a worker process of ``eval.run`` runs.

A rollout is a pure function of (checkpoint, settings, suite, task, seed, initial state): nothing of it depends on what
the same process simulated before, so any number of workers gives the same results.
"""

import contextlib
import io
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.common.errors import EvalError
from eval.rollout.policy.camera_keys import PREFIX, SCENE
from eval.rollout.run_folder import VIDEOS_FOLDER, Rollout, RolloutKey
from eval.rollout.workers.motion import jerk, path_length, undisturbed
from eval.rollout.workers.recorder import EpisodeRecorder
from eval.rollout.workers.scene import Judge, Perturbation, Scene
from eval.rollout.workers.videos import captioned, scene_images, video_name, with_attention, write_video
from lerobot_atlasvla.libero.demonstrations.episode import start_worker
from lerobot_atlasvla.libero.patches.displacement import displacement_cm_of

if TYPE_CHECKING:
    from eval.rollout.policy.checkpoint import Checkpoint
    from lerobot_atlasvla.inspection.attention import AttentionRecorder


@dataclass(frozen=True)
class Task:
    """Name one task of a suite, in LIBERO's order.

    Attributes:
        suite: LIBERO suite.
        task_id: Index of the task in the suite.
        instruction: What the policy is told.
        scene: What the simulator is built for, unless that is the task itself; the suite may then be one that LIBERO
            does not have.
        perturbation: What else is changed.
        name: Name of the task in its benchmark, if that is not LIBERO.
        judge: Says what a success is, and when a rollout ends, instead of the scene's own goal.
    """

    suite: str
    task_id: int
    instruction: str
    scene: Scene | None = None
    perturbation: Perturbation | None = None
    name: str | None = None
    judge: Judge | None = None

    @property
    def built_for(self) -> Scene:
        """Return what its simulator is built for."""
        return self.scene or Scene(self.suite, self.task_id)


@dataclass(frozen=True)
class RolloutJob:
    """Describe one rollout to simulate.

    Attributes:
        task: The task.
        seed: The run's seed.
        init_state: Index of the fixed initial state, and number of the rollout within its task and seed.
        film_failure: Make a video if it fails.
        film_success: Make a video if it succeeds.
    """

    task: Task
    seed: int
    init_state: int
    film_failure: bool = False
    film_success: bool = False

    @property
    def key(self) -> RolloutKey:
        """Return the key of the rollout that it becomes."""
        return self.task.suite, self.task.task_id, self.seed, self.init_state


@dataclass(frozen=True)
class FinishedRollout:
    """Hold what a worker sends back of a finished :class:`RolloutJob`.

    Attributes:
        rollout: For the run folder.
        final_state: The simulator's state at the end, flattened: time, positions, velocities.
    """

    rollout: Rollout
    final_state: np.ndarray


@dataclass(frozen=True)
class WorkerSettings:
    """Hold what every rollout of a run shares, apart from the simulator's environment variables.

    Attributes:
        checkpoint: Folder of the checkpoint.
        device: Where the policy runs.
        overrides: Settings of the policy that win over the checkpoint's (``SimulationSettings.policy_overrides``).
        output_dir: The run folder, for videos.
        cameras: LIBERO's cameras to the policy's views.
        settle_steps: Steps without motion after a reset.
        init_states: Whether to start from LIBERO's fixed initial states.
        image_size: Side of the images, pixels.
        video_size: Side of the frames of videos, pixels.
        episode_length: Steps after which a rollout has failed; None for LeRobot's limit.
        threads: CPU threads of the policy.
        retreat_steps: Steps that a rollout goes on after a success.
        overlay: Whether videos show the policy's attention.
    """

    checkpoint: Path
    device: str
    overrides: Mapping[str, Any]
    output_dir: Path
    cameras: Mapping[str, str]
    settle_steps: int
    init_states: bool
    image_size: int
    video_size: int
    episode_length: int | None
    threads: int
    overlay: bool
    retreat_steps: int = 0


class Evaluator:
    """Hold a loaded checkpoint and the environment of one task at a time.

    Args:
        settings: What all rollouts share.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        from lerobot.utils.import_utils import register_third_party_plugins

        from eval.rollout.policy.checkpoint import LOADING_ERRORS, read_checkpoint
        from lerobot_atlasvla.libero.setup import prepare_libero

        register_third_party_plugins()
        prepare_libero()
        self._settings = settings
        checkpoint = read_checkpoint(settings.checkpoint, settings.device, **settings.overrides)
        self._config = checkpoint.config
        try:
            self._policy, self._preprocessor, self._postprocessor = _load(checkpoint, self._env_config())
        except LOADING_ERRORS as error:
            raise EvalError(f"--checkpoint={settings.checkpoint} cannot be loaded: {error}") from error
        self._attention: AttentionRecorder | None = None
        if settings.overlay:
            from lerobot_atlasvla.inspection import attention

            policy: Any = self._policy
            self._attention = attention.AttentionRecorder(policy)
        self._scene: Scene | None = None
        self._env: Any = None

    @property
    def parameters(self) -> int:
        """Count the whole policy's parameters, frozen ones and backbones kept in other files included."""
        exported = getattr(self._policy, "exported_parameters", 0)
        return exported or sum(parameter.numel() for parameter in self._policy.parameters())

    def close(self) -> None:
        """Free the simulator and its GL context."""
        if self._env is not None:
            self._env.close()
        self._env = self._scene = None

    def roll_out(self, job: RolloutJob) -> FinishedRollout:
        """Simulate one rollout, keeping the environment for the next one of the same task."""
        import torch
        from lerobot.envs.factory import make_env_pre_post_processors
        from lerobot.scripts.lerobot_eval import eval_policy
        from lerobot.utils.random_utils import set_seed

        self._prepare(job.task.built_for)
        recorder = self._env.envs[0]
        recorder.unwrapped.init_state_id = job.init_state
        if job.task.scene is not None:
            recorder.unwrapped.task_description = job.task.instruction
        recorder.perturbation, recorder.seed = job.task.perturbation, job.seed + job.init_state
        recorder.judge = job.task.judge
        env_preprocessor, env_postprocessor = make_env_pre_post_processors(
            self._env_config(job.task.built_for), self._config
        )
        # For policies that draw from noise, one stream per rollout.
        set_seed(int(np.random.SeedSequence([job.seed, job.init_state]).generate_state(1)[0]))
        if self._attention is not None:
            self._attention.clear()
        started = time.monotonic()
        with (
            self._attention or contextlib.nullcontext(),
            torch.no_grad(),
            # As lerobot-eval has it.
            torch.autocast(torch.device(self._settings.device).type, enabled=self._config.use_amp),
        ):
            info = eval_policy(
                self._env,
                self._policy,
                env_preprocessor,
                env_postprocessor,
                self._preprocessor,
                self._postprocessor,
                n_episodes=1,
                start_seed=job.seed + job.init_state,
            )
        rollout = Rollout(
            suite=job.task.suite,
            task_id=job.task.task_id,
            instruction=job.task.instruction,
            seed=job.seed,
            init_state=job.init_state,
            success=bool(info["per_episode"][0]["success"]),
            steps=recorder.steps,
            wall_s=round(time.monotonic() - started, 2),
            video=None,
            displacement_cm=displacement_cm_of(recorder.unwrapped),
            task_name=job.task.name,
            # What may be disturbed is known of the scene's own task only.
            undisturbed=undisturbed(recorder.unwrapped._env, recorder.states) if job.task.judge is None else None,
            path_m=path_length(recorder.gripper_m[: recorder.steps + 1]),
            jerk_m_s3=jerk(recorder.gripper_m[: recorder.steps + 1]),
            judgment=dict(recorder.judgment.record) if recorder.judgment is not None else None,
        )
        final_state = recorder.states[-1]
        if job.film_success if rollout.success else job.film_failure:
            rollout = self._filmed(rollout)
        return FinishedRollout(rollout, final_state)

    def _filmed(self, rollout: Rollout) -> Rollout:
        """Make the video of the rollout that has just ended."""
        recorder = self._env.envs[0]
        word = "success" if rollout.success else "failure"
        frames = []
        for step, frame in enumerate(scene_images(recorder.unwrapped, recorder.states, self._settings.video_size)):
            shown = frame
            if self._attention is not None:
                # After the last step the robot is still where that step's chunk took it.
                chunk = recorder.chunks[min(step, len(recorder.chunks) - 1)]
                shown = with_attention(frame, chunk, PREFIX + self._settings.cameras[SCENE])
            text = f"{word}: {rollout.suite} {rollout.task_id}, state {rollout.init_state}, step {step}"
            frames.append(captioned(shown, text, rollout.success))
        name = video_name(rollout.suite, rollout.task_id, rollout.seed, rollout.init_state, rollout.success)
        write_video(self._settings.output_dir / VIDEOS_FOLDER / name, frames)
        return replace(rollout, video=f"{VIDEOS_FOLDER}/{name}")

    def _prepare(self, scene: Scene) -> None:
        """Have the environment of a scene, with its simulator built."""
        from lerobot.envs.factory import make_env

        if scene == self._scene:
            return
        self.close()
        with contextlib.redirect_stdout(io.StringIO()):  # LeRobot and LIBERO announce every environment
            vector: Any = make_env(self._env_config(scene), n_envs=1)[scene.suite][scene.task_id]
        self._env = vector
        env = vector.envs[0].unwrapped
        env.num_steps_wait = self._settings.settle_steps
        scene.replace_files(env)
        # Otherwise built by the first reset, which would count as the time of that rollout.
        env._ensure_env()
        vector.envs[0] = EpisodeRecorder(
            vector.envs[0], self._attention, self._settings.cameras.get(SCENE), self._settings.retreat_steps
        )
        self._scene = scene

    def _env_config(self, scene: Scene | None = None) -> Any:
        from lerobot.envs.configs import LiberoEnv

        settings = self._settings
        # LeRobot's environment has at least one camera; a blind policy's shows black.
        cameras = dict(settings.cameras) or {SCENE: "image"}
        which: dict[str, Any] = {"task": scene.suite, "task_ids": [scene.task_id]} if scene else {}
        return LiberoEnv(
            **which,
            camera_name=",".join(cameras),
            camera_name_mapping=cameras,
            init_states=settings.init_states,
            observation_height=settings.image_size,
            observation_width=settings.image_size,
            episode_length=settings.episode_length,
        )


def _load(checkpoint: "Checkpoint", environment: Any) -> tuple[Any, Any, Any]:
    """Load a policy, and the pipelines before and after it."""
    from lerobot.policies import make_policy, make_pre_post_processors

    if checkpoint.is_export:
        from eval.rollout.policy.exported import ExportedRolloutPolicy

        # Its pipelines are in its graph.
        return ExportedRolloutPolicy(checkpoint.folder, checkpoint.config), _unchanged, _unchanged
    policy = make_policy(checkpoint.config, env_cfg=environment)
    preprocessor, postprocessor = make_pre_post_processors(
        policy_cfg=checkpoint.config,
        pretrained_path=str(checkpoint.folder),
        preprocessor_overrides={
            "device_processor": {"device": str(checkpoint.config.device)},
            # The environment's cameras have the policy's names.
            "rename_observations_processor": {"rename_map": {}},
        },
    )
    return policy, preprocessor, postprocessor


def _unchanged(value: Any) -> Any:
    return value


# -- worker process ----------------------------------------------------------------------------------------------------

_settings: WorkerSettings | None = None
_evaluator: Evaluator | None = None


def start(settings: WorkerSettings) -> None:
    """Initialize a worker process; the policy is loaded by its first call."""
    global _settings
    start_worker()
    # Ctrl-C reaches every process of the terminal; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch
    from lerobot.scripts import lerobot_eval

    torch.set_num_threads(settings.threads)
    # Its only switch for the two progress bars that it draws in every rollout.
    lerobot_eval.inside_slurm = lambda: True
    _settings = settings


def count_parameters() -> int:
    """Load the policy in this worker, and say how large it is."""
    return _loaded().parameters


def run_job(job: RolloutJob) -> FinishedRollout:
    """Simulate one rollout in this worker."""
    return _loaded().roll_out(job)


def _loaded() -> Evaluator:
    global _evaluator
    if _evaluator is None:
        assert _settings is not None
        _evaluator = Evaluator(_settings)
    return _evaluator
