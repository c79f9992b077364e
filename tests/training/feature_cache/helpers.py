"""A policy that trains with a feature cache, and batches for it."""

from pathlib import Path
from types import SimpleNamespace

import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.libero.demonstrations.schema import FPS
from lerobot_atlasvla.model.types import GeometryTokens
from tests.conftest import CHUNK, dataset_stats
from tests.helpers.random_dataset import REPO_ID
from tests.helpers.released import open_gates, released_config

EPISODES, FRAMES = 2, 12
TOTAL = EPISODES * FRAMES


def settings(data: Path, released: Path, folder: Path | None, *, episodes=None, **overrides) -> TrainPipelineConfig:
    """What lerobot-train would be told."""
    config = released_config(released, feature_cache=folder and str(folder), **overrides)
    dataset = DatasetConfig(repo_id=REPO_ID, root=str(data), episodes=episodes)
    return TrainPipelineConfig(dataset=dataset, policy=config, batch_size=5, num_workers=0)


def make_policy(cfg: TrainPipelineConfig, data: Path, **meta) -> AtlasVLAPolicy:
    """The policy as LeRobot makes it for training, on the CPU."""
    torch.manual_seed(0)
    facts = SimpleNamespace(**({"features": {}, "repo_id": REPO_ID, "total_frames": TOTAL} | meta))
    policy = AtlasVLAPolicy(cfg.policy, dataset_meta=facts)
    open_gates(policy)
    return policy.train()


def batch_of(policy: AtlasVLAPolicy, data: Path, frames: list[int]) -> dict:
    """Frames of the dataset as they come out of the preprocessor."""
    dataset = LeRobotDataset(REPO_ID, root=data, delta_timestamps={"action": [step / FPS for step in range(CHUNK)]})
    preprocessor, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    return preprocessor(torch.utils.data.default_collate([dataset[frame] for frame in frames]))


def features_of(policy: AtlasVLAPolicy, batch: dict) -> GeometryTokens:
    return policy.feature_cache.encode_views(prepare_views(policy.config, batch, training=True))


def without_vggt(policy: AtlasVLAPolicy, monkeypatch) -> None:
    def must_not_run(*args, **kwargs):
        raise AssertionError("VGGT ran")

    monkeypatch.setattr(policy.model.aggregator, "embed", must_not_run)
    monkeypatch.setattr(policy.model.aggregator, "attend", must_not_run)
