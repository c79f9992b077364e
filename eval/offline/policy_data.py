"""A checkpoint's policy beside a local dataset, without a simulator: both opened, and whether they fit each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import ACTION, OBS_IMAGES
from lerobot.utils.feature_utils import dataset_to_policy_features

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import Checkpoint
from lerobot_atlasvla.utils.paths import pattern_in

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata


def check_is_dataset(root: Path) -> None:
    """Refuse a folder that is no dataset; reads nothing.

    Raises:
        EvalError: If it has no ``meta/info.json``, or a name that LeRobot's reader takes for a pattern.
    """
    if problem := pattern_in(root, "--dataset_root"):
        raise EvalError(problem)
    # Without this file LeRobot would go and look for the dataset on the Hub.
    if not (root / "meta/info.json").is_file():
        raise EvalError(f"--dataset_root={root} is no LeRobot dataset: it has no meta/info.json.")


def read_metadata(root: Path) -> "LeRobotDatasetMetadata":
    """Read LeRobot's metadata of a local dataset.

    Raises:
        EvalError: If it can't be read.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

    check_is_dataset(root)
    try:
        return LeRobotDatasetMetadata(f"local/{root.name}", root=root)
    except Exception as error:  # a damaged one fails in many ways, also while LeRobot asks the Hub for what is missing
        raise EvalError(f"--dataset_root={root} can't be read: {error}") from error


def read_dataset(
    meta: "LeRobotDatasetMetadata", root: Path, seconds: Mapping[str, Sequence[float]] | None
) -> "LeRobotDataset":
    """Open a local dataset with all its episodes.

    Args:
        meta: Its metadata.
        root: Its folder.
        seconds: LeRobot's ``delta_timestamps``: by key, the times relative to a frame that are read with it.

    Raises:
        EvalError: If it can't be read.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    times = None if seconds is None else {key: list(values) for key, values in seconds.items()}
    try:
        return LeRobotDataset(meta.repo_id, root=root, delta_timestamps=times)
    except Exception as error:  # as above
        raise EvalError(f"--dataset_root={root} can't be read: {error}") from error


def check_observations(
    config: Any, meta: "LeRobotDatasetMetadata", source: str, rename_map: Mapping[str, str] | None = None
) -> None:
    """Check that a dataset has what a policy expects to observe.

    Args:
        config: The policy's configuration.
        meta: The dataset's metadata.
        source: What the message begins with: the flag and its value.
        rename_map: Keys of the dataset that the policy's preprocessor renames.

    Raises:
        EvalError: Naming the first observation that is missing or has another shape.
    """
    renamed = rename_map or {}
    features = {renamed.get(key, key): feature for key, feature in dataset_to_policy_features(meta.features).items()}
    for key, wanted in (config.input_features or {}).items():
        shape = tuple(features[key].shape) if key in features else None
        # Places of cameras that the robot does not have are filled in by the policy.
        if shape != tuple(wanted.shape) and not key.startswith(f"{OBS_IMAGES}.empty_camera_"):
            has = "has none" if shape is None else f"has {shape}"
            raise EvalError(f"{source} expects {key} of shape {tuple(wanted.shape)}; the dataset {has}.")


def action_statistic(meta: "LeRobotDatasetMetadata", root: Path, name: str) -> torch.Tensor:
    """Return a statistic of a dataset's actions, (A,) float32.

    Args:
        meta: The dataset's metadata.
        root: Its folder.
        name: ``mean``, ``std`` or another one of LeRobot's.

    Raises:
        EvalError: If the dataset does not have it, or not a finite number for each dimension.
    """
    stats: Any = meta.stats or {}
    values = torch.as_tensor(stats.get(ACTION, {}).get(name, ())).float()
    if tuple(values.shape) != tuple(meta.features[ACTION]["shape"]) or not values.isfinite().all():
        raise EvalError(
            f"--dataset_root={root} has no {name} of every dimension of its actions in meta/stats.json, but "
            f"{values.tolist()}; compute it again with `lerobot-edit-dataset --operation.type=recompute_stats`."
        )
    return values


def load_policy(checkpoint: Checkpoint, meta: "LeRobotDatasetMetadata", rename_map: Mapping[str, str]) -> Any:
    """Load the policy onto its device, in eval mode.

    Args:
        checkpoint: The checkpoint.
        meta: The dataset's metadata.
        rename_map: Keys of the dataset that the policy's preprocessor renames.

    Raises:
        EvalError: If the dataset's actions have another size: LeRobot would load it as for fine-tuning to that size.
        OSError, RuntimeError, ValueError: ``LOADING_ERRORS`` of :mod:`eval.rollout.policy.checkpoint`, if it fails.
    """
    from lerobot.policies import make_policy

    known = (checkpoint.config.output_features or {}).get(ACTION)
    shape = tuple(meta.features[ACTION]["shape"]) if ACTION in meta.features else None
    if known is not None and shape != tuple(known.shape):
        has = "has none" if shape is None else f"has {shape}"
        raise EvalError(f"{checkpoint.folder} predicts {ACTION} of shape {tuple(known.shape)}; the dataset {has}.")
    return make_policy(checkpoint.config, ds_meta=meta, rename_map=dict(rename_map)).eval()


def load_processors(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Load the pre- and the postprocessor of a checkpoint; errors as in :func:`load_policy`."""
    from lerobot.policies import make_pre_post_processors

    return make_pre_post_processors(
        policy_cfg=checkpoint.config,
        pretrained_path=str(checkpoint.folder),
        preprocessor_overrides={"device_processor": {"device": checkpoint.config.device}},
    )
