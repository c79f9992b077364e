"""Settings of ``python -m eval.run``, and what is refused before any checkpoint or simulator is touched."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lerobot_atlasvla.data.demonstrate import SETTLE_STEPS
from lerobot_atlasvla.sim.camera_shift import CameraShift
from lerobot_atlasvla.sim.displace import check_displace_cm
from lerobot_atlasvla.sim.look import ENV_LOOK, LOOKS

FIXED_STATES = 50
"""Initial states that LIBERO fixes per task."""
GROWING = ("suites", "task_ids", "seeds", "episodes")
"""Settings that say how much to do; the others say what a rollout is and are the same for a whole run folder."""


class RunError(Exception):
    """A run cannot start or go on; the message says why and what to change."""


@dataclass
class RunConfig:
    """Roll a checkpoint out in LIBERO. Running the same command again continues where a stopped run was."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoint: Path
    # Folder of the run. It must not exist yet, or hold a run of the same checkpoint and settings.
    output_dir: Path
    # LIBERO suites, for example '[libero_spatial, libero_goal]'.
    suites: list[str] = field(default_factory=lambda: ["libero_spatial"])
    # Tasks of every suite, for example '[0, 3]'. All if not given.
    task_ids: list[int] | None = None
    # Seeds, at least 0. Every task is done once with each.
    seeds: list[int] = field(default_factory=lambda: [1000])
    # Rollouts per task and seed, on LIBERO's fixed initial states 0, 1, 2, ...; at most 50 with --init_states=true.
    episodes: int = 20
    # Actions of a chunk that are executed before the policy looks again. The checkpoint's own number if not given.
    n_action_steps: int | None = None
    # Steps without motion after a reset, in which objects drop onto the table. LeRobot takes 10.
    settle_steps: int = SETTLE_STEPS
    # Start from LIBERO's fixed initial states; otherwise from random placements, drawn with the seed.
    init_states: bool = True
    # Side of the rendered pictures in pixels. That of the pictures the policy was trained on if not given: some
    # policies, such as ACT, take other sizes without a word and fail.
    image_size: int | None = None
    # Steps after which a rollout has failed. LeRobot's limit of the suite if not given.
    episode_length: int | None = None
    # Processes that simulate. One per core if not given. Results do not depend on it.
    workers: int | None = None
    # CPU threads of each worker's policy. Their number moves the last bits of an action, so it is one of the settings.
    threads: int = 1
    # Take pictures only at steps where the policy looks, and leave out what no camera sees: same results, sooner.
    fast_render: bool = True
    # How the scene is rendered: default (LIBERO's own), fast (no reflections, no shadows) or plain (no antialiasing
    # either). ATLASVLA_LIBERO_LOOK if not given. It should be the look of the demonstrations.
    look: str = field(default_factory=lambda: os.environ.get(ENV_LOOK) or "default")
    # Scene camera moved to its right, cm.
    right_cm: float = 0.0
    # Scene camera moved up, cm.
    up_cm: float = 0.0
    # Scene camera moved towards the scene, cm.
    forward_cm: float = 0.0
    # Scene camera turned to its right, degrees.
    pan_deg: float = 0.0
    # Scene camera turned up, degrees.
    tilt_deg: float = 0.0
    # Scene camera turned clockwise, degrees.
    roll_deg: float = 0.0
    # Displace all loose objects, and the fixtures that carry some, by one random vector of up to this many cm along x
    # and along y, which depends on the initial state and the seed only. 0 is LIBERO's own placement, which a policy
    # can know by heart.
    displace_cm: float = 0.0
    # LIBERO's cameras to the policy's views, where their names leave it open, for example
    # '{"agentview_image": "front", "robot0_eye_in_hand_image": "side"}'.
    cameras: dict[str, str] | None = None
    # Videos of failures to keep per task and seed; of successes, those among as many first initial states.
    videos: int = 2
    # Show in the videos where the policy looked, with --overlay=true (AtlasVLA only).
    overlay: bool = False
    # Device of the policy, such as cpu or cuda. cuda if there is one and nothing is given.
    device: str | None = None
    # Go on although the checkpoint's demonstrations were made on other LIBERO assets than these rollouts.
    allow_other_assets: bool = False

    def validate(self) -> None:
        """Raise :class:`RunError` for the first setting that cannot work on its own; starts nothing."""
        if not self.output_dir.name:
            raise RunError(f"--output_dir={str(self.output_dir)!r} must name a folder.")
        for name, minimum in {
            "episodes": 1,
            "n_action_steps": 1,
            "settle_steps": 0,
            "image_size": 1,
            "episode_length": 1,
            "workers": 1,
            "threads": 1,
            "videos": 0,
        }.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise RunError(f"--{name}={value} must be at least {minimum}.")
        if self.init_states and self.episodes > FIXED_STATES:
            raise RunError(
                f"--episodes={self.episodes} is more than the {FIXED_STATES} initial states LIBERO fixes per task. "
                f"Choose at most {FIXED_STATES} and more --seeds, or --init_states=false for random placements."
            )
        for name, values in {"suites": self.suites, "task_ids": self.task_ids, "seeds": self.seeds}.items():
            if values is not None and (not values or len(set(values)) < len(values)):
                raise RunError(f"--{name}={values} must name at least one, and none twice.")
        # LIBERO seeds NumPy's generator, which takes 32 bits.
        highest = 2**32 - self.episodes
        if not all(0 <= seed <= highest for seed in self.seeds):
            raise RunError(f"--seeds={self.seeds} must all lie in 0 .. {highest}.")
        if self.look not in LOOKS:
            raise RunError(f"--look={self.look} is not a look; allowed: {', '.join(LOOKS)}.")
        try:
            self.camera_shift()
        except ValueError as error:
            raise RunError(f"The camera cannot be shifted: --{error}.") from error
        try:
            check_displace_cm(self.displace_cm, "--displace_cm")
        except ValueError as error:
            raise RunError(f"{error}.") from error

    def camera_shift(self) -> CameraShift:
        """How the scene camera is displaced."""
        return CameraShift(**{name: getattr(self, name) for name in asdict(CameraShift())})

    def settings(self, n_action_steps: int | None, cameras: Mapping[str, str], image_size: int) -> dict[str, Any]:
        """What ``run.json`` records: all that moves results, and how much was asked for.

        Args:
            n_action_steps: As in force, the checkpoint's or the one given.
            cameras: The mapping in force.
            image_size: Side of the pictures in force.
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
            "fast_render": self.fast_render,
            "look": self.look,
            "camera_shift": asdict(self.camera_shift()),
            "displace_cm": self.displace_cm,
            "cameras": dict(cameras),
        }


def check_continues(recorded: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to mix rollouts that cannot be compared in one run folder.

    Args:
        recorded: Flag name to value, as the run folder has them.
        asked: The same of this command.
        folder: The run folder, for the message.

    Raises:
        RunError: Naming the first difference, both values and the flag.
    """
    for name, value in asked.items():
        if recorded.get(name) != value:
            raise RunError(
                f"--{name}: the run in --output_dir={folder} was made with {recorded.get(name)}, this command asks for "
                f"{value}. Continue it with the same {name}, or choose a new --output_dir."
            )


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of :meth:`RunConfig.settings` that a whole run folder shares, by flag."""
    shared = {name: value for name, value in settings.items() if name not in (*GROWING, "camera_shift")}
    return shared | settings["camera_shift"]


def union(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run folder that was first asked for one amount and now for another.

    Returns:
        ``recorded`` itself, in content, if nothing new is asked for.
    """
    merged = dict(recorded)
    for name in ("suites", "seeds"):
        merged[name] = [*recorded[name], *(value for value in asked[name] if value not in recorded[name])]
    if recorded["task_ids"] is None or asked["task_ids"] is None:
        merged["task_ids"] = None
    else:
        merged["task_ids"] = sorted({*recorded["task_ids"], *asked["task_ids"]})
    merged["episodes"] = max(recorded["episodes"], asked["episodes"])
    return merged
