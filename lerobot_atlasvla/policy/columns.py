"""Find the columns of a dataset that a policy reads, cameras, state and action; and say what to do about other names.

Light on purpose, as the configuration that imports it.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_IMAGES, OBS_STATE

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

logger = logging.getLogger(__name__)

STATE_PART = f"{OBS_STATE}."
"""What the names of a state's parts begin with, where a dataset keeps arm and gripper in columns of their own."""

BLIND = ("none",)
"""The views of a policy without any."""

# What LeRobot adds to every dataset itself.
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
# Last words of names under which others store the state and the action, such as openpi's "state" and "actions".
_STATE_WORDS = ("state", "states", "proprio", "qpos", "robot_state", "joint_positions")
_ACTION_WORDS = ("action", "actions")
_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def select_columns(config: AtlasVLAConfig, dataset: Any | None = None) -> None:
    """Reduce a configuration's features to those that the policy reads, and check them.

    Cameras that ``views`` leaves out go, and so does whatever else the data have beside cameras, state and action:
    text, switches, efforts. Cameras that are not RGB (depth, gray) are left out with a warning unless ``views`` names
    them, if the policy is made for a dataset.

    Args:
        config: The configuration, with the features of the data or of a checkpoint; changed.
        dataset: LeRobot's metadata of the dataset that it is made for, for better messages.

    Raises:
        ValueError: If a camera, the state or the action is missing or has another shape; the message lists all columns
            and spells out the names that they need.
    """
    found = dict(config.input_features or {})
    for key in config.empty_camera_keys:
        if config.image_features or config.is_blind:
            found.setdefault(key, PolicyFeature(FeatureType.VISUAL, (3, *config.image_size)))
    if dataset is not None:
        found |= _sizes_in(dataset, found)
    # Elsewhere LeRobot's pipelines don't look.
    cameras = {
        key: feature
        for key, feature in found.items()
        if feature.type is FeatureType.VISUAL and (key == OBS_IMAGE or key.startswith(f"{OBS_IMAGES}."))
    }
    if not cameras and not config.is_blind:
        raise ValueError(
            f"AtlasVLA needs at least one camera (observation.images.*); the data have {_have(config, dataset)}."
        )
    if not config.views and dataset is not None:
        _leave_out_other_images(config, cameras)
    if missing := [key for key in config.views if key not in cameras and not config.is_blind]:
        raise ValueError(f"views names {missing}, but the data have the cameras {sorted(cameras)} (--policy.views).")
    views = () if config.is_blind else config.views or tuple(cameras)
    for key in views:
        shape = tuple(cameras[key].shape)
        if len(shape) != 3 or shape[0] != 3:
            raise ValueError(
                f"{key} must be an RGB image of shape (3, H, W), got {shape}. Depth and gray images are not read: name "
                "the RGB cameras with --policy.views, or store a gray image three times, as R, G and B."
            )
    states = {key: feature for key, feature in found.items() if key in state_keys(found)}
    if config.use_state and dataset is not None and dataset.features and (lost := states.keys() - dataset.features):
        raise ValueError(
            f"The dataset has no {', '.join(sorted(lost))}, but {_have(config, dataset)}. --rename_map does not reach "
            "its statistics: rename the column in a copy with `python -m lerobot_atlasvla.commands.rename_columns`."
        )
    if config.use_state and (not states or any(len(feature.shape) != 1 for feature in states.values())):
        shapes = {key: tuple(feature.shape) for key, feature in states.items()}
        raise ValueError(
            f"AtlasVLA needs {OBS_STATE!r} of shape (N,), got {', '.join(map(str, shapes.values())) or None}, or its "
            f"parts {STATE_PART}*; the data have {_have(config, dataset)}. For LIBERO environments use "
            "--env.obs_type=pixels_agent_pos; to do without a state, --policy.use_state=false."
        )
    action = (config.output_features or {}).get(ACTION)
    if action is None or len(action.shape) != 1:
        shape = None if action is None else tuple(action.shape)
        raise ValueError(
            f"AtlasVLA needs {ACTION!r} of shape (A,), got {shape}; the data have {_have(config, dataset)}."
        )
    if config.input_features is not None:
        # One order for all data that mean the same: that of cameras and of a state's parts has a meaning, no other.
        config.input_features = {key: found[key] for key in (*cameras, *states) if key in views or key in states}
    config.output_features = {ACTION: action}
    if dataset is not None and (words := squeezed_views(config)):
        logger.warning("%s.", words)


def _sizes_in(dataset: Any, found: Mapping[str, PolicyFeature]) -> dict[str, PolicyFeature]:
    """Return the cameras and states that a dataset has, too, as they are there: a checkpoint's had other sizes."""
    from lerobot.utils.feature_utils import dataset_to_policy_features

    cameras = {key for key, feature in found.items() if feature.type is FeatureType.VISUAL}
    shared = {key: dataset.features[key] for key in (cameras | {*state_keys(found)}) & dataset.features.keys()}
    return {key: PolicyFeature(one.type, tuple(one.shape)) for key, one in dataset_to_policy_features(shared).items()}


def note_image_sizes(config: AtlasVLAConfig, batch: Mapping[str, Any], dataset: Any) -> None:
    """Write down the sizes of the images that only a batch can tell: of cameras that ``--rename_map`` renames.

    Args:
        config: The configuration; changed if such a camera's images have another size than it says.
        batch: A batch of training data, checked; images (..., 3, H, W).
        dataset: LeRobot's metadata of the dataset.
    """
    renamed = [key for key in config.view_keys if key in batch and key not in dataset.features]
    sizes = {key: tuple(batch[key].shape[-3:]) for key in renamed}
    other = {key: size for key, size in sizes.items() if size != tuple(config.image_features[key].shape)}
    if other and config.input_features is not None:
        config.input_features |= {key: PolicyFeature(FeatureType.VISUAL, size) for key, size in other.items()}
        if words := squeezed_views(config):
            logger.warning("%s.", words)


def squeezed_views(config: AtlasVLAConfig) -> str:
    """Say which cameras' images change their proportions when they are resized, and which size would keep them.

    Args:
        config: The configuration, features filled in.

    Returns:
        One sentence without a full stop; empty if proportions stay, within 5 %.
    """
    height, width = config.image_size
    shapes = {key: config.image_features[key].shape[1:] for key in config.view_keys}
    squeezed = {key: (h, w) for key, (h, w) in shapes.items() if not 0.95 < (width / height) / (w / h) < 1.05}
    if not squeezed:
        return ""
    h, w = next(iter(squeezed.values()))
    patch, side = config.patch_size, max(height, width)
    # Sizes with a long side as now, or longer by up to a half.
    sizes = [
        tuple(max(patch, round(long * each / max(h, w) / patch) * patch) for each in (h, w))
        for long in range(side, side * 3 // 2 + 1, patch)
    ]
    fit = min(sizes, key=lambda size: (round(abs(math.log(size[1] / size[0] * h / w)), 2), size))
    names = ", ".join(f"{key} ({h} x {w})" for key, (h, w) in squeezed.items())
    return (
        f"Images are squeezed to {height} x {width} (height x width) without keeping their proportions: {names}; "
        f"--policy.image_size='{list(fit)}' comes nearest to those of the first"
    )


def state_keys(features: Mapping[str, PolicyFeature]) -> tuple[str, ...]:
    """Return the key of the state, or the keys of its parts in the order in which they are put together."""
    if OBS_STATE in features:
        return (OBS_STATE,)
    return tuple(key for key, one in features.items() if key.startswith(STATE_PART) and one.type is FeatureType.STATE)


def _leave_out_other_images(config: AtlasVLAConfig, cameras: Mapping[str, PolicyFeature]) -> None:
    """Look through the RGB cameras only, if there are others besides: a depth camera belongs to many an RGB one."""
    other = [key for key, camera in cameras.items() if len(camera.shape) == 3 and 3 not in camera.shape]
    if other and len(other) < len(cameras):
        config.views = tuple(key for key in cameras if key not in other)
        logger.warning(
            "Cameras that are not RGB are left out: %s. --policy.views=%s says the same and is silent.",
            ", ".join(f"{key} {tuple(cameras[key].shape)}" for key in other),
            json.dumps(config.views),
        )


def _have(config: AtlasVLAConfig, dataset: Any | None) -> str:
    """List all columns of the data for a message, and what to rename where others' names are recognized."""
    if dataset is None:
        return str(sorted({**(config.input_features or {}), **(config.output_features or {})}))
    columns = {key: feature for key, feature in dataset.features.items() if key not in BOOKKEEPING}
    names = suggested_names(columns)
    if not names:
        return str(list(columns))
    command = ["python", "-m", "lerobot_atlasvla.commands.rename_columns", f"--root={dataset.root}"]
    command += [f"--output_dir={dataset.root}_renamed", f"--rename_map={json.dumps(names)}"]
    return f"{list(columns)}, names that LeRobot does not look for. A renamed copy is made by `{shlex.join(command)}`"


def suggested_names(columns: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the names that LeRobot needs for columns that others name in their own way.

    Args:
        columns: Features of a LeRobotDataset (``dtype``, ``shape``) by name.

    Returns:
        New names by old ones; only for columns whose kind and name leave no doubt.
    """
    found: dict[str, str] = {}
    for name, feature in columns.items():
        word = name.replace("/", ".").rpartition(".")[2]
        new = None
        if feature["dtype"] in ("image", "video"):
            if name != OBS_IMAGE and not name.startswith(f"{OBS_IMAGES}."):
                new = f"{OBS_IMAGES}.{word}"
        elif feature["dtype"] in _NUMBERS and len(feature["shape"]) == 1:
            if word.lower() in _STATE_WORDS:
                new = OBS_STATE
            elif word.lower() in _ACTION_WORDS:
                new = ACTION
        if new and new not in columns and new not in found.values():
            found[name] = new
    return found


def names(value: Sequence[str]) -> tuple[str, ...]:
    """Return names from a list, or from what LeRobot's command line makes of ``[a, b]`` or of the word ``none``.

    It reads JSON, where names without quotes are no list; the text stays one, and draccus makes a tuple of its
    characters.
    """
    text = "".join(value)
    if all(len(name) == 1 for name in value):
        if (text,) == BLIND:
            return BLIND
        if text.startswith("[") and text.endswith("]"):
            return tuple(name.strip() for name in text[1:-1].split(",") if name.strip())
    return tuple(value)
