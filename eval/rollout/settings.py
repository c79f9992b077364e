"""Settings of ``python -m eval.run``, and what is refused before any checkpoint or simulator is touched."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError, check_at_least, check_at_most
from lerobot_atlasvla.libero.dataset_settings import LARGEST_IMAGE, MOST_WORKERS
from lerobot_atlasvla.libero.environment import read_variable
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift
from lerobot_atlasvla.libero.patches.displacement import check_displace_cm
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY, check_render_quality
from lerobot_atlasvla.libero.tasks import LONGEST_EPISODE, SETTLE_STEPS, SPATIAL, SUITE_MAX_STEPS

FIXED_STATES = 50
"""Initial states that LIBERO fixes per task."""


@dataclass(kw_only=True)
class SimulationSettings:
    """Hold the settings of all commands that roll a policy out."""

    # Actions of a chunk that are executed before the policy looks again. The checkpoint's own number if not given.
    n_action_steps: int | None = None
    # Average, at every step, what all chunks so far predict for it, older ones weighted by exp(-coeff x age): smoother.
    # Needs n_action_steps 1. The checkpoint's own coefficient, which may be none, if not given.
    temporal_ensemble_coeff: float | None = None
    # Side of the rendered images in pixels. That of the images the policy was trained on if not given: some
    # policies, such as ACT, take other sizes without a word and fail.
    image_size: int | None = None
    # Steps after which a rollout has failed. LeRobot's limit of the suite if not given. With the steps without motion
    # at most 1000.
    episode_length: int | None = None
    # Processes that simulate. One per core if not given. Results do not depend on it.
    workers: int | None = None
    # Render only at steps where the policy looks, and leave out what no camera sees: same results, sooner.
    fast_render: bool = True
    # How the scene is rendered: default (LIBERO's own), fast (no reflections, no shadows) or plain (no antialiasing
    # either). ATLASVLA_LIBERO_RENDER_QUALITY if not given. It should be that of the demonstrations.
    render_quality: str = field(default_factory=lambda: read_variable(ENV_RENDER_QUALITY, "default"))
    # Displace all loose objects, and the fixtures that carry some, by one random vector of up to this many cm along x
    # and along y, which depends on the initial state and the seed only. 0 is LIBERO's own placement, which a policy
    # can know by heart.
    displace_cm: float = 0.0
    # Videos of failures to keep per task and seed; of successes, those among as many first initial states.
    videos: int = 2
    # Side of the frames of videos, pixels. They are drawn after the rollout, whatever size the policy sees.
    video_size: int = 256
    # Device of the policy, such as cpu or cuda. cuda if there is one and nothing is given.
    device: str | None = None
    # Go on although the checkpoint's demonstrations were made on other LIBERO assets than these rollouts.
    allow_other_assets: bool = False

    @property
    def policy_overrides(self) -> dict[str, Any]:
        """Return the settings of a policy that are given and win over the checkpoint's."""
        names = ("n_action_steps", "temporal_ensemble_coeff")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class PolicySettings(SimulationSettings):
    """Hold the settings of commands that roll out one policy."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoint: Path
    # Folder of the run. It must not exist yet, or hold a run of the same checkpoint and settings.
    output_dir: Path
    # Steps without motion after a reset, in which objects drop onto the table. LeRobot takes 10.
    settle_steps: int = SETTLE_STEPS
    # CPU threads of each worker's policy. Their number moves the last bits of an action, so it is one of the settings.
    threads: int = 1
    # LIBERO's cameras to the policy's views, where their names leave it open, for example
    # '{"agentview_image": "front", "robot0_eye_in_hand_image": "side"}'.
    cameras: dict[str, str] | None = None


@dataclass(kw_only=True)
class RolloutSettings(SimulationSettings):
    """Hold the settings that ``eval.run`` and ``eval.camera_shift`` share."""

    # LIBERO suites, for example '[libero_spatial, libero_goal]'.
    suites: list[str] = field(default_factory=lambda: [SPATIAL])
    # Tasks of every suite, for example '[0, 3]'. All if not given.
    task_ids: list[int] | None = None
    # Seeds, at least 0. Every task is done once with each.
    seeds: list[int] = field(default_factory=lambda: [1000])
    # Rollouts per task and seed, on LIBERO's fixed initial states 0, 1, 2, ...; at most 50 with fixed states.
    episodes: int = 20


@dataclass(kw_only=True)
class RunConfig(RolloutSettings, PolicySettings):
    """Roll a checkpoint out in LIBERO. Running the same command again continues where a stopped run was."""

    # Start from LIBERO's fixed initial states; otherwise from random placements, drawn with the seed.
    init_states: bool = True
    # Steps that a rollout goes on after a success, so that "undisturbed" covers the retreat of the arm, too.
    retreat_steps: int = 0
    # Scene camera moved to its right, cm.
    right_cm: float = 0.0
    # Scene camera moved up, cm.
    up_cm: float = 0.0
    # Scene camera moved toward the scene, cm.
    forward_cm: float = 0.0
    # Scene camera turned to its right, degrees.
    pan_deg: float = 0.0
    # Scene camera turned up, degrees.
    tilt_deg: float = 0.0
    # Scene camera turned clockwise, degrees.
    roll_deg: float = 0.0
    # Scene camera moved around the scene, degrees counterclockwise from above.
    azimuth_deg: float = 0.0
    # Scene camera moved over the scene, degrees up.
    elevation_deg: float = 0.0
    # Scene camera moved away from the scene, percent of its distance.
    distance_percent: float = 0.0
    # Show in the videos where the policy looked, with --overlay=true (AtlasVLA only).
    overlay: bool = False

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work on its own; starts nothing."""
        if not self.output_dir.name:
            raise EvalError(f"--output_dir={str(self.output_dir)!r} must name a folder.")
        check_at_least(self, episodes=1, n_action_steps=1, settle_steps=0, image_size=1, video_size=1, episode_length=1)
        check_at_least(self, workers=1, threads=1, videos=0, retreat_steps=0)
        check_at_most(self, image_size=LARGEST_IMAGE, video_size=LARGEST_IMAGE)
        check_at_most(self, workers=MOST_WORKERS, threads=MOST_WORKERS)
        self._check_length()
        if self.init_states and self.episodes > FIXED_STATES:
            raise EvalError(
                f"--episodes={self.episodes} is more than the {FIXED_STATES} initial states LIBERO fixes per task. "
                f"Choose at most {FIXED_STATES} and more --seeds, or --init_states=false for random placements."
            )
        for name, values in {"suites": self.suites, "task_ids": self.task_ids, "seeds": self.seeds}.items():
            if values is not None and (not values or len(set(values)) < len(values)):
                raise EvalError(f"--{name}={values} must name at least one, and none twice.")
        # LIBERO seeds NumPy's generator, which takes 32 bits.
        highest = 2**32 - self.episodes
        if not all(0 <= seed <= highest for seed in self.seeds):
            raise EvalError(f"--seeds={self.seeds} must all lie in 0 .. {highest}.")
        if not self.init_states:
            check_placements(self.seeds, self.episodes)
        try:
            self.camera_shift()
        except ValueError as error:
            raise EvalError(f"The camera cannot be shifted: --{error}.") from error
        try:
            check_render_quality(self.render_quality, "--render_quality")
            check_displace_cm(self.displace_cm, "--displace_cm")
        except ValueError as error:
            raise EvalError(f"{error}.") from error

    def _check_length(self) -> None:
        """Refuse rollouts that would go on after the simulator has ended the episode."""
        steps = self.episode_length
        if steps is None:
            # Suites that LeRobot does not know have no limit here; they are refused elsewhere.
            steps = max((SUITE_MAX_STEPS.get(suite, 0) for suite in self.suites), default=0)
        if self.settle_steps + steps > LONGEST_EPISODE:
            limit = f"{steps} (LeRobot's limit)" if self.episode_length is None else str(steps)
            raise EvalError(
                f"--settle_steps={self.settle_steps} and --episode_length={limit} are {self.settle_steps + steps} "
                f"steps together, and LIBERO's simulator ends an episode after {LONGEST_EPISODE}; choose fewer."
            )

    def camera_shift(self) -> CameraShift:
        """Return how the scene camera is displaced."""
        return CameraShift(**{name: getattr(self, name) for name in asdict(CameraShift())})

    def settings(self, n_action_steps: int | None, cameras: Mapping[str, str], image_size: int) -> dict[str, Any]:
        """Return what ``run.json`` records: all that moves results, and how much was asked for.

        Args:
            n_action_steps: As in force, the checkpoint's or the one given.
            cameras: The mapping in force.
            image_size: Side of the images in force, pixels.
        """
        return {
            "suites": list(self.suites),
            "task_ids": None if self.task_ids is None else sorted(self.task_ids),
            "seeds": list(self.seeds),
            "episodes": self.episodes,
            "n_action_steps": n_action_steps,
            "settle_steps": self.settle_steps,
            "init_states": self.init_states,
            "image_size": image_size,
            "episode_length": self.episode_length,
            "threads": self.threads,
            "retreat_steps": self.retreat_steps,
            "fast_render": self.fast_render,
            # The key in the run folders of all versions.
            "look": self.render_quality,
            "camera_shift": asdict(self.camera_shift()),
            "displace_cm": self.displace_cm,
            "cameras": dict(cameras),
        }

    @property
    def processes(self) -> int:
        """Return how many processes simulate."""
        return self.workers or os.cpu_count() or 1


def check_placements(seeds: Sequence[int], episodes: int, folder: Path | None = None) -> None:
    """Refuse seeds that draw the same random placements: that of an episode depends on seed + episode only.

    Args:
        seeds: Of the whole run.
        episodes: Rollouts per task and seed, numbered from 0.
        folder: The run folder, if some of them were asked for by the run in it, for the message.

    Raises:
        EvalError: If two seeds are closer together than ``episodes``.
    """
    if all(high - low >= episodes for low, high in pairwise(sorted(seeds))):
        return
    where = "" if folder is None else f" (with those of the run in --output_dir={folder})"
    raise EvalError(
        f"--seeds={list(seeds)} with --episodes={episodes}{where} repeat random placements (--init_states=false), "
        f"which are drawn with seed + episode; choose --seeds at least {episodes} apart."
    )
