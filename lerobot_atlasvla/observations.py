"""From LeRobot's preprocessed batch to the model's inputs: every key and shape is checked, views are resized."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from lerobot.utils.constants import OBS_IMAGES, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from .configuration_atlasvla import AtlasVLAConfig
from .model.augment import random_shift, same_crop_and_colour
from .model.tokens import GeometryTokens, PolicyInputs


def entry(batch: dict[str, Tensor], key: str) -> Tensor:
    """One entry of a batch.

    Raises:
        ValueError: If it is missing; the message names the flags that map names.
    """
    if key not in batch:
        raise ValueError(
            f"{key!r} is missing from the batch, which has {sorted(batch)}. Map other names with --rename_map, or "
            "for LIBERO cameras with --env.camera_name_mapping; for LIBERO's state use "
            "--env.obs_type=pixels_agent_pos."
        )
    return batch[key]


def read_observations(
    config: AtlasVLAConfig, batch: dict[str, Tensor], *, training: bool, seen: GeometryTokens | None = None
) -> PolicyInputs:
    """Check the observations and bring them into the model's form; the batch itself is not changed.

    Args:
        config: The policy's configuration.
        batch: Preprocessed observations.
        training: Whether pictures are augmented.
        seen: The geometry tokens of all views, if they are known already.

    Raises:
        ValueError: For an entry that is missing or misshapen, or a camera that the policy does not know.
    """
    tokens_BL = entry(batch, OBS_LANGUAGE_TOKENS)
    return PolicyInputs(
        views=read_views(config, batch, training=training) if seen is None else seen,
        present=tuple(index for index, key in enumerate(config.view_keys) if _is_there(config, batch, key)),
        state_BN=_state(config, batch) if config.use_state else tokens_BL.new_zeros(len(tokens_BL), 0).float(),
        tokens_BL=tokens_BL,
        token_mask_BL=entry(batch, OBS_LANGUAGE_ATTENTION_MASK),
    )


def read_views(config: AtlasVLAConfig, batch: dict[str, Tensor], *, training: bool) -> Tensor:
    """The cameras of a batch as the model sees them, (B, V, 3, H, W) in [0, 1]; augmented in training.

    Empty cameras that the batch does not have are left out; a blind policy has none (V = 0).

    Raises:
        ValueError: For a camera that is missing, unknown or not RGB in [0, 1].
    """
    if config.is_blind:
        tokens_BL = entry(batch, OBS_LANGUAGE_TOKENS)
        return torch.zeros(len(tokens_BL), 0, 3, *config.image_size, device=tokens_BL.device)
    if not config.views:
        cameras = [key for key in batch if key.startswith(f"{OBS_IMAGES}.") and not key.endswith("_is_pad")]
        unknown = sorted(set(cameras) - set(config.view_keys))
        if unknown:
            raise ValueError(
                f"The batch has cameras that the policy does not know: {unknown}; it looks through "
                f"{list(config.view_keys)}. Leave them out, or name the ones to use with --policy.views."
            )
    there = [key for key in config.view_keys if _is_there(config, batch, key)]
    views = torch.stack([_view(config, batch, key) for key in there], dim=1)
    if training and (config.random_crop or config.color_jitter):
        views = same_crop_and_colour(views, config.random_crop, config.color_jitter)
    if training and config.random_shift:
        views = random_shift(views.flatten(0, 1), config.random_shift).view_as(views)
    return views


def _is_there(config: AtlasVLAConfig, batch: dict[str, Tensor], key: str) -> bool:
    """Whether a view takes part: all of them but empty cameras that the batch does not have."""
    return key in batch or key not in config.empty_camera_keys


def _state(config: AtlasVLAConfig, batch: dict[str, Tensor]) -> Tensor:
    state_BN = entry(batch, OBS_STATE)
    expected = config.state_dim
    if state_BN.ndim != 2 or state_BN.shape[1] != expected:
        raise ValueError(f"{OBS_STATE} must have shape (B, {expected}) as in training, got {tuple(state_BN.shape)}.")
    return state_BN


def _view(config: AtlasVLAConfig, batch: dict[str, Tensor], key: str) -> Tensor:
    """One camera, (B, 3, H, W) in [0, 1], resized to ``image_size``."""
    image = entry(batch, key)
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"{key} must be float RGB of shape (B, 3, H, W) in [0, 1], got {image.dtype} of shape {tuple(image.shape)}."
        )
    if tuple(image.shape[-2:]) == config.image_size:
        return image
    return F.interpolate(image, config.image_size, mode="bilinear", align_corners=False, antialias=True)
