"""Starting from a checkpoint on data with fewer cameras, or with states or actions of another size.

The weights that read or give those numbers start fresh, those of cameras that are left out go, and everything else is
the checkpoint's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

from .download import WeightsError, listing

if TYPE_CHECKING:
    from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy

logger = logging.getLogger(__name__)

# Names in a policy's state dict.
_HEAD = "model.head."
_STATE = "model.state_projector.weight"
_CONDITION = "model.decoder.queries.condition.0.weight"
_FUSION, _VIEW_EMBED = "model.fusion.", ".view_embed"
_OF_VIEWS = ("model.landmarks.prototypes_VKE", "model.landmarks.centers_VK3")


def fit_to_dataset(policy: AtlasVLAPolicy, saved: AtlasVLAConfig, file: Path, tensors: dict[str, Tensor]) -> bool:
    """Make a checkpoint's tensors fit a policy that is about to be trained on other data than the checkpoint was.

    Args:
        policy: The policy, with fresh weights.
        saved: The checkpoint's own settings.
        file: Its weights, for messages.
        tensors: What they hold; changed.

    Returns:
        Whether anything had to be changed.

    Raises:
        WeightsError: If the policy is not made for a dataset, and its cameras are the checkpoint's in another order; or
            if its landmarks lie in the frame of a first camera that is another one now.
    """
    config, fresh = policy.config, policy.state_dict()
    other_views = config.view_keys != saved.view_keys and set(config.view_keys) <= set(saved.view_keys)
    if policy.action_chunks.meta is None:
        if other_views and len(config.view_keys) == len(saved.view_keys):
            raise WeightsError(
                f"{file} was trained on the cameras {list(saved.view_keys)} in this order, not "
                f"{list(config.view_keys)}: leave out --policy.views."
            )
        return False
    places = [saved.view_keys.index(key) for key in config.view_keys] if other_views else []
    if places:
        _check_first_view(policy, saved, file)
    random: dict[str, Tensor] = {}
    pairs = {"actions": (saved.action_dim, config.action_dim), "states": (saved.state_dim, config.state_dim)}
    other = {name: both for name, both in pairs.items() if both[0] != both[1] and all(both)}
    if "actions" in other:
        random |= {name: tensor for name, tensor in fresh.items() if name.startswith(_HEAD)}
    if "states" in other:
        random |= {_STATE: fresh[_STATE]}
    random = {name: new for name, new in random.items() if name in tensors and tensors[name].shape != new.shape}
    tensors.update(random)
    for name in fresh.keys() & tensors.keys() if places else ():
        embeds_views = name.startswith(_FUSION) and name.endswith(_VIEW_EMBED)
        if embeds_views and tensors[name].shape[:2] == (1, len(saved.view_keys)):
            tensors[name] = tensors[name][:, places]
        elif name in _OF_VIEWS and len(tensors[name]) == len(saved.view_keys):
            tensors[name] = tensors[name][places]
    columns: list[str] = []
    if _CONDITION in tensors and _CONDITION in fresh and ("states" in other or places):
        tensors[_CONDITION] = _condition(policy, saved, places, tensors[_CONDITION], fresh[_CONDITION])
        columns = [f"{_CONDITION} (the state's columns)"] if "states" in other else []
    if other:
        sizes = [f"{name} of {before} numbers and the dataset of {now}" for name, (before, now) in other.items()]
        logger.warning(
            "The checkpoint %s has %s: %s start from RANDOM weights, everything else from the checkpoint.",
            file.parent,
            ", ".join(sizes),
            listing(sorted([*random, *columns])),
        )
    return bool(other or places)


def _check_first_view(policy: AtlasVLAPolicy, saved: AtlasVLAConfig, file: Path) -> None:
    landmarks, first = policy.model.landmarks, saved.view_keys[0]
    if landmarks is None or policy.config.view_keys[0] == first:
        return
    if "first_view" in (landmarks.point_frame, landmarks.frame) or saved.hand_eye:
        raise WeightsError(
            f"{file} has landmarks in the frame of its first camera, {first}, which must stay the first one: "
            f"--policy.views={list(policy.config.view_keys)} does not begin with it."
        )


def _condition(
    policy: AtlasVLAPolicy, saved: AtlasVLAConfig, places: list[int], weight: Tensor, fresh: Tensor
) -> Tensor:
    """Return the weights of the layer that reads the condition, ``(hidden width, condition width)``.

    Their columns are those of the state, of the pooled instruction, and of what the views give.
    """
    before, now, dim = saved.state_dim, policy.config.state_dim, policy.config.decoder_hidden_size
    count = len(saved.view_keys)
    # What a view gives: parts, each of them view by view.
    widths: Sequence[int] = ()
    if policy.model.visual_summary is not None:
        widths = policy.model.visual_summary.widths
    elif policy.model.landmarks is not None:
        widths = (policy.model.landmarks.output_dim // len(policy.config.view_keys),)
    views_width = count * sum(widths)
    if weight.shape != (len(fresh), before + dim + views_width):
        return weight  # damaged, which is said where all shapes are compared
    state, language, views = weight.tensor_split((before, before + dim), dim=1)
    if now != before:
        state = fresh[:, :now]
    if places and widths:
        parts = views.split([count * width for width in widths], dim=1)
        views = torch.cat([part.unflatten(1, (count, -1))[:, places].flatten(1) for part in parts], dim=1)
    return torch.cat((state, language, views), dim=1)
