"""Untrained checkpoints of two types that fit the random dataset, as ``lerobot-train`` leaves them."""

import json
from pathlib import Path

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig

from tests.conftest import ACTION_DIM, IMAGE, STATE, STATE_DIM, WRIST
from tests.helpers import released
from tests.helpers.random_dataset import PIXELS

SMALL_ACT = {
    "device": "cpu",
    "pretrained_backbone_weights": None,
    "dim_model": 32,
    "dim_feedforward": 32,
    "n_heads": 2,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
}


def save_act(folder: Path, dataset_root: Path, **settings) -> Path:
    """ACT without normalization; 4 of 6 actions of a chunk are executed unless the settings say otherwise."""
    views = {key: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)) for key in (IMAGE, WRIST)}
    config = ACTConfig(
        input_features=views | {STATE: PolicyFeature(FeatureType.STATE, (STATE_DIM,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        normalization_mapping=dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY),
        **SMALL_ACT,
        **({"chunk_size": 6, "n_action_steps": 4} | settings),
    )
    torch.manual_seed(0)
    meta = LeRobotDataset("local/dataset", root=dataset_root).meta
    make_policy(config, ds_meta=meta).save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=meta.stats):
        processor.save_pretrained(folder)
    return folder


def save_atlasvla(folder: Path) -> Path:
    """AtlasVLA whose cameras have the dataset's size."""
    released.save_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in (IMAGE, WRIST):
        config["input_features"][key]["shape"] = [3, PIXELS, PIXELS]
    (folder / "config.json").write_text(json.dumps(config))
    return folder
