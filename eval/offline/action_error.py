"""``python -m eval.action_error``: how far a policy's actions are from demonstrated ones, without a simulator.

Every checkpoint acts on the same frames of one dataset, through ``select_action`` as in a robot loop, and its actions
are compared with those that were demonstrated from there on. Once more with the images of other frames: a policy
that does no worse then does not look.

This is for choosing settings in minutes, when rollouts would take hours. It is no success rate: errors do not add up
here as they do in a rollout, and on the frames of its own training a policy may know the answers by heart.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import ACTION

from eval.common.cli import run_command
from eval.common.environment_info import versions
from eval.common.errors import LARGEST_SEED, EvalError, check_at_least, check_at_most, check_labels, check_report_name
from eval.common.statistics import clustered_mean
from eval.offline.action_error_page import action_error_page, cells
from eval.offline.policy_data import (
    action_statistic,
    check_is_dataset,
    check_observations,
    load_policy,
    load_processors,
    read_dataset,
    read_metadata,
)
from eval.report.data import note_text, publish
from eval.rollout.policy.checkpoint import LOADING_ERRORS, Checkpoint, choose_device, read_checkpoint
from eval.rollout.policy.training_record import training_record
from lerobot_atlasvla.inspection.reliance import renamed_keys
from lerobot_atlasvla.libero.demonstrations.schema import ACTION_DIM

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

# Tensor shapes: S frames, B frames of a batch, N steps, A action dimensions.

KIND = "action_error"
PARTS = {"translation": slice(0, 3), "rotation": slice(3, 6), "gripper": slice(6, 7)}
"""Action dimensions of LIBERO, each in [-1, 1]."""
MEAN_ACTION = "the mean action, always"


@dataclass
class ActionErrorConfig:
    """Compare the actions of checkpoints with demonstrated ones."""

    # Folders of the checkpoints: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoints: list[Path]
    # Folder of a LeRobot dataset with LIBERO's actions and the cameras that the policies were trained on.
    dataset_root: Path
    # Name of the report, in --reports.
    name: str
    # What the report calls the checkpoints. The names of their training runs if not given.
    labels: list[str] | None = None
    # Frames to act on, spread evenly over the dataset.
    frames: int = 96
    # Actions per frame that are compared. If not given, as many as every one of the policies executes per chunk.
    steps: int | None = None
    # Frames that a policy acts on at a time; less memory with fewer.
    batch_size: int = 32
    # For policies that draw random numbers.
    seed: int = 1000
    # Device of the policies, such as cpu or cuda.
    device: str = "cpu"
    # File with remarks for the report, Markdown. The remarks of an earlier report of this name stay if not given.
    note: Path | None = None
    # Folder of all reports.
    reports: Path = Path("eval/results")

    def check(self) -> None:
        """Find what can't work, before anything is read.

        Raises:
            EvalError: Naming the flag.
        """
        check_report_name(self.name, self.reports)
        if not self.checkpoints:
            raise EvalError("--checkpoints=[] must name at least one.")
        if self.labels is not None and len(self.labels) != len(self.checkpoints):
            raise EvalError(f"--labels={self.labels} must be {len(self.checkpoints)}, one for each of --checkpoints.")
        check_labels("labels", self.labels or ())
        check_at_least(self, frames=2, steps=1, batch_size=1, seed=0)
        check_at_most(self, seed=LARGEST_SEED)
        check_is_dataset(self.dataset_root)


@dataclass(frozen=True)
class Frames:
    """Frames of a dataset and what was demonstrated from there on.

    Attributes:
        observations: As LeRobot's collate function leaves them, S frames each, images included.
        image_keys: Keys of the images in ``observations``.
        actions_SNA: The demonstrated actions.
        known_SN: Whether the episode was that long.
        episode_S: Numbers of the episodes that the frames are of.
    """

    observations: dict[str, Any]
    image_keys: tuple[str, ...]
    actions_SNA: torch.Tensor
    known_SN: torch.Tensor
    episode_S: torch.Tensor

    def __len__(self) -> int:
        """Return the number of frames S."""
        return len(self.actions_SNA)

    def batch(self, chosen: Sequence[int], other_images: bool) -> dict[str, Any]:
        """Return the observations of some frames.

        Args:
            chosen: Which.
            other_images: Images of the frame half the dataset away instead of the frame's own.
        """
        away = [(index + len(self) // 2) % len(self) for index in chosen] if other_images else chosen
        return {
            key: _pick(values, away if key in self.image_keys else chosen) for key, values in self.observations.items()
        }

    def error_SA(self, actions_SNA: torch.Tensor) -> torch.Tensor:
        """Return the mean absolute error of each frame and dimension, over the steps that were demonstrated; (S, A)."""
        known_SN1 = self.known_SN[..., None]
        apart_SNA = (actions_SNA - self.actions_SNA).abs() * known_SN1
        return apart_SNA.sum(1) / known_SN1.sum(1)


def _pick(values: Any, chosen: Sequence[int]) -> Any:
    return values[list(chosen)] if torch.is_tensor(values) else [values[index] for index in chosen]


def open_dataset(root: Path, steps: int) -> "LeRobotDataset":
    """Open the dataset, with the actions of ``steps`` steps at each frame.

    Raises:
        EvalError: If it can't be read, or its actions are not LIBERO's.
    """
    meta = read_metadata(root)
    shape = tuple((meta.features.get(ACTION) or {}).get("shape") or ())
    if shape != (ACTION_DIM,):
        raise EvalError(f"--dataset_root={root} has actions of shape {shape}; LIBERO's are ({ACTION_DIM},).")
    return read_dataset(meta, root, {ACTION: [step / meta.fps for step in range(steps)]})


def read_frames(dataset: "LeRobotDataset", count: int) -> Frames:
    """Return frames spread evenly over a dataset.

    Raises:
        EvalError: If it has fewer.
    """
    from torch.utils.data import default_collate

    if count > dataset.num_frames:
        raise EvalError(f"--frames={count} is more than the dataset's {dataset.num_frames}.")
    items: list[Any] = [dataset[index * dataset.num_frames // count] for index in range(count)]
    observations = {key: [item[key] for item in items] for key in items[0] if key.startswith("observation.")}
    return Frames(
        observations={key: default_collate(values) for key, values in observations.items()}
        | {"task": [item["task"] for item in items]},
        image_keys=tuple(dataset.meta.camera_keys),
        actions_SNA=torch.stack([item[ACTION] for item in items]),
        known_SN=~torch.stack([item[f"{ACTION}_is_pad"] for item in items]),
        episode_S=torch.stack([item["episode_index"] for item in items]),
    )


def check_fit(checkpoint: Checkpoint, path: Path, dataset: "LeRobotDataset", steps: int) -> None:
    """Find why a policy can't act on a dataset.

    Raises:
        EvalError: If it keeps a history of observations, executes fewer actions than are compared, or expects other
            observations.
    """
    if checkpoint.images_every is None:
        raise EvalError(
            f"--checkpoints: {path} is a policy of type {checkpoint.config.type} with n_obs_steps="
            f"{checkpoint.config.n_obs_steps}; only policies that act on one observation per chunk can be compared."
        )
    if steps > checkpoint.images_every:
        raise EvalError(
            f"--steps={steps} is more than the {checkpoint.images_every} actions that {path} executes per chunk."
        )
    before, _ = load_processors(checkpoint)
    check_observations(checkpoint.config, dataset.meta, f"--checkpoints: {path}", renamed_keys(before))


def act(checkpoint: Checkpoint, dataset: "LeRobotDataset", frames: Frames, cfg: ActionErrorConfig) -> list[Any]:
    """Return what a policy does on the frames, and what with the images of others.

    Returns:
        Two tensors like ``frames.actions_SNA``.
    """
    before, after = load_processors(checkpoint)
    policy = load_policy(checkpoint, dataset.meta, renamed_keys(before))
    done = []
    for other_images in (False, True):
        chunks = []
        for start in range(0, len(frames), cfg.batch_size):
            chosen = range(start, min(start + cfg.batch_size, len(frames)))
            policy.reset()
            torch.manual_seed(cfg.seed + start)
            actions = []
            for _ in range(frames.actions_SNA.shape[1]):
                # Preprocessed anew each time, as in a robot loop; a policy may change what it is given.
                with torch.inference_mode():
                    action_BA = after(policy.select_action(before(frames.batch(chosen, other_images))))
                actions.append(action_BA.float().cpu())
            chunks.append(torch.stack(actions, dim=1))
        done.append(torch.cat(chunks))
    return done


def summary(error_SA: torch.Tensor, episode_S: torch.Tensor) -> dict[str, list[float | None]]:
    """Return the mean over frames and half of its 95 % interval, over episodes, for each part of the action."""
    return {
        part: list(clustered_mean(error_SA[:, columns].mean(1).tolist(), episode_S.tolist()))
        for part, columns in PARTS.items()
    }


def compare(cfg: ActionErrorConfig) -> dict[str, Any]:
    """Return the content of ``report.json`` without what identifies the report.

    Raises:
        EvalError: If checkpoints, dataset or settings don't fit each other.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    device = choose_device(cfg.device)
    found = [read_checkpoint(path, device, None) for path in cfg.checkpoints]
    steps = cfg.steps or min([one.images_every for one in found if one.images_every], default=1)
    dataset = open_dataset(cfg.dataset_root, steps)
    for path, checkpoint in zip(cfg.checkpoints, found, strict=True):
        check_fit(checkpoint, path, dataset, steps)
    mean_A = action_statistic(dataset.meta, cfg.dataset_root, "mean")
    frames = read_frames(dataset, cfg.frames)
    labels = cfg.labels or _labels(cfg.checkpoints, found)
    policies: list[dict[str, Any]] = [
        {
            "label": MEAN_ACTION,
            "error": summary(frames.error_SA(mean_A.expand_as(frames.actions_SNA)), frames.episode_S),
        },
    ]
    for label, path, checkpoint in zip(labels, cfg.checkpoints, found, strict=True):
        try:
            own_SNA, other_SNA = act(checkpoint, dataset, frames, cfg)
        except LOADING_ERRORS as error:
            raise EvalError(f"--checkpoints: {path} can't be loaded or can't act on the dataset: {error}") from error
        training = training_record(checkpoint.folder) or {}
        policies.append(
            {
                "label": label,
                "error": summary(frames.error_SA(own_SNA), frames.episode_S),
                "error_other_pictures": summary(frames.error_SA(other_SNA), frames.episode_S),
                "checkpoint": str(path),
                "type": checkpoint.config.type,
                "weights_sha256": checkpoint.weights_sha256,
                "steps": training.get("steps"),
                "settings": {name: training[name] for name in ("batch_size", "policy") if name in training},
                "command": training.get("command"),
            }
        )
        figures = ", ".join(f"{part} {cell}" for part, cell in zip(PARTS, cells(policies[-1]["error"]), strict=True))
        sys.stdout.write(f"{label}: {figures}\n")
    content = {"steps": steps, "frames": cfg.frames, "episodes": dataset.num_episodes}
    return content | {"dataset": str(cfg.dataset_root), "policies": policies}


def _labels(paths: Sequence[Path], found: Sequence[Checkpoint]) -> list[str]:
    # RUN/checkpoints/STEP/pretrained_model
    inside = all(one.folder.match("*/checkpoints/*/*") for one in found)
    names = [one.folder.parents[2].name for one in found] if inside else []
    return names if len(set(names)) == len(paths) else [str(path) for path in paths]


def run(cfg: ActionErrorConfig, command: str) -> None:
    """Compare the checkpoints and write the report."""
    cfg.check()
    folder = cfg.reports / cfg.name
    note, environment = note_text(cfg.note, folder, KIND), versions()
    content = {"note": note, **compare(cfg), "commands": [command]}
    content |= {"seed": cfg.seed, "device": cfg.device, "environment": environment}
    page = publish(folder, KIND, content, action_error_page(content | {"name": cfg.name}))
    sys.stdout.write(f"action error: report {page}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, or 1 for what can't be compared."""
    return run_command("eval.action_error", ActionErrorConfig, run, argv)
