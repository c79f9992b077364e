"""Values that no policy can act on: images outside [0, 1], and what is not a number or infinite.

Shape suffixes: B batch, T chunk, A action.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.utils.constants import ACTION
from torch import Tensor, nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

# A resized image may overshoot by a rounding error.
TOLERANCE = 1e-3
# Beyond this, an action would not stay finite when its normalization is undone.
LARGEST = 1e12
_FRAME_KEYS = ("index", "episode_index")


def check_image_range(config: AtlasVLAConfig, batch: Mapping[str, Tensor]) -> None:
    """Refuse images outside [0, 1]; one look at the device for all cameras.

    Args:
        config: The policy's configuration. If it normalizes images itself, any range is right.
        batch: Preprocessed observations; cameras are float RGB (B, 3, H, W).

    Raises:
        ValueError: Naming the camera and the range that its pixels have.
    """
    mode = NormalizationMode(config.normalization_mapping.get(FeatureType.VISUAL.value, NormalizationMode.IDENTITY))
    keys = [key for key in config.view_keys if key in batch and batch[key].numel()]
    if not keys or mode is not NormalizationMode.IDENTITY:
        return
    ends = torch.stack([torch.stack(batch[key].detach().aminmax()).float().to(batch[keys[0]].device) for key in keys])
    for key, (low, high) in zip(keys, ends.tolist(), strict=True):
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise ValueError(
                f"{key} must be float RGB in [0, 1], got values from {low:.4g} to {high:.4g}. Divide images of "
                "0 .. 255 by 255, and leave out every other scaling: the policy has its own."
            )


def check_finite_loss(loss: float, config: AtlasVLAConfig, batch: Mapping[str, Tensor], policy: nn.Module) -> None:
    """Refuse to learn from a loss that is not finite, which would leave no weight finite.

    Args:
        loss: The batch's mean loss.
        config: The policy's configuration.
        batch: What it was computed from.
        policy: The policy, whose weights may be the reason.

    Raises:
        ValueError: Naming the entry of the batch, and its frame in the dataset where that is known, or the weight.
    """
    if loss - loss == 0:  # neither NaN nor infinite
        return
    reason = _culprit(config, batch, policy) or (
        "though data and weights are: lower --policy.optimizer_lr, or compute in --policy.dtype=float32"
    )
    raise ValueError(f"The loss is {loss}, {reason}.")


def check_finite_actions(
    actions_BTA: Tensor, config: AtlasVLAConfig, batch: Mapping[str, Tensor], policy: nn.Module
) -> None:
    """Refuse predicted actions that are not finite, or so large that they soon would not be: no motor may get them.

    Args:
        actions_BTA: The prediction.
        config: The policy's configuration.
        batch: The observations.
        policy: The policy, whose weights may be the reason.

    Raises:
        ValueError: Naming the observation or the weight that is the reason.
    """
    if (actions_BTA.abs() <= LARGEST).all():  # of NaN, nothing is true
        return
    reason = _culprit(config, {key: value for key, value in batch.items() if key != ACTION}, policy)
    states = {key: batch[key].abs().max().item() for key in config.state_keys if key in batch}
    if reason is None and states:
        key = max(states, key=states.__getitem__)
        reason = f"though observation and weights are; the largest normalized value of {key} is {states[key]:.3g}"
    raise ValueError(f"The predicted actions are not finite, {reason or 'though weights are'}. None was returned.")


def _culprit(config: AtlasVLAConfig, batch: Mapping[str, Tensor], policy: nn.Module) -> str | None:
    """Return what is not finite, as the end of a sentence; ``None`` if everything is."""
    for key in (ACTION, *config.state_keys, *config.view_keys):
        value = batch.get(key)
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            return f"because {key} is not finite in {_place(value, batch)}"
    for name, parameter in policy.named_parameters():
        # Released weights (meta) were finite.
        if not parameter.is_meta and not parameter.isfinite().all():
            return f"because the weights {name} are not finite (training diverged, or the file is damaged)"
    return None


def _place(value: Tensor, batch: Mapping[str, Any]) -> str:
    """Return where the first value that is not finite lies: sample or frame, and dimension."""
    where = (~value.isfinite()).nonzero()[0].tolist()
    place = f"sample {where[0]} of the batch"
    if all(isinstance(batch.get(key), Tensor) for key in _FRAME_KEYS):
        index, episode = (batch[key].flatten()[where[0]].item() for key in _FRAME_KEYS)
        place = f"frame {index} of the dataset (episode {episode})"
        if value.ndim == 3:
            place = f"the chunk of actions that starts at {place}, step {where[1]}"
    number = value[tuple(where)].item()
    return f"{place}: {number} in dimension {where[-1]}" if value.ndim < 4 else f"{place}: {number}"
