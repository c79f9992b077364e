"""Policies on a backbone made by atlasvla-pretrain."""

import pytest
import torch
from draccus.utils import DraccusException
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from tests.conftest import ACTION_DIM, IMAGE, PIXELS, STATE, STATE_DIM, WRIST, tiny_config

# What the record says; a user need not.
OF_RECORD = (
    "image_size",
    *(f"vggt_{name}" for name in ("patch_embed", "patch_size", "embed_dim", "depth", "num_heads")),
)
OF_RECORD += ("vggt_num_register_tokens", "vggt_output_layers")


def settings(folder, cameras=(IMAGE, WRIST), **overrides) -> dict:
    """Those of the tiny policy, without any that the record says."""
    tiny = {name: value for name, value in vars(tiny_config()).items() if name in AtlasVLAConfig.__dataclass_fields__}
    kept = {
        name: value
        for name, value in tiny.items()
        if name not in OF_RECORD and AtlasVLAConfig.__dataclass_fields__[name].init and not name.startswith("vggt_")
    }
    features = {key: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)) for key in cameras}
    kept["input_features"] = features | {STATE: PolicyFeature(FeatureType.STATE, (STATE_DIM,))}
    kept["output_features"] = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
    return kept | {"vggt_model": str(folder)} | overrides


def make(folder, **overrides) -> AtlasVLAPolicy:
    torch.manual_seed(0)
    return AtlasVLAPolicy(AtlasVLAConfig(**settings(folder, **overrides)))


def refusal(folder, **overrides) -> str:
    with pytest.raises((ValueError, DraccusException)) as caught:
        make(folder, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message
