"""The preset atlasvla_mini on a backbone of two steps: from simulated views to a trained policy."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.commands import doctor_preset
from lerobot_atlasvla.commands.doctor import read_settings
from lerobot_atlasvla.pretraining.settings import PretrainConfig
from lerobot_atlasvla.pretraining.trainer import pretrain
from lerobot_atlasvla.utils.cli import UsageError
from tests.conftest import IMAGE, WRIST
from tests.helpers.commands import succeed
from tests.helpers.geometry_dataset import write_geometry_dataset
from tests.helpers.random_dataset import REPO_ID

PRESET = "--config_path=configs/policy/atlasvla_mini.yaml"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    root = write_geometry_dataset(folder / "data", episodes=2, frames=1)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_dim": 8, "steps": 2, "batch_size": 2}
    pretrain(PretrainConfig(dataset_root=root, output_dir=folder / "backbone", **sizes))
    return folder / "backbone"


@pytest.fixture
def flags(backbone, dataset_root, in_repository_root) -> list[str]:
    data = [f"--dataset.repo_id={REPO_ID}", f"--dataset.root={dataset_root}", "--batch_size=4", "--num_workers=0"]
    return [PRESET, *data, f"--policy.vggt_model={backbone}", "--policy.device=cpu"]


def train(flags: list[str], folder: Path, *more: str) -> Path:
    succeed("lerobot-train", *flags, "--steps=2", "--save_freq=2", f"--output_dir={folder}", *more)
    return folder / "checkpoints/last/pretrained_model"


def test_the_preset_trains_and_its_checkpoint_leaves_the_backbone_out(flags, tmp_path):
    saved = train(flags, tmp_path / "plain")
    assert not any("aggregator" in name for name in load_file(saved / "model.safetensors"))
    policy = AtlasVLAPolicy.from_pretrained(saved)
    assert policy.config.view_keys == (WRIST, IMAGE)
    assert policy.model.aggregator.point_heads is not None


@pytest.mark.slow
def test_a_feature_cache_gives_the_same_weights(flags, tmp_path):
    cache = f"--policy.feature_cache={tmp_path / 'features'}"
    succeed("atlasvla-cache", *flags, cache)
    saved = train(flags, tmp_path / "plain"), train(flags, tmp_path / "cached", cache)
    plain, cached = (load_file(folder / "model.safetensors") for folder in saved)
    assert plain.keys() == cached.keys()
    assert all((plain[name] - cached[name]).abs().max() < 1e-4 for name in plain)


def test_atlasvla_check_finds_it_ready(flags):
    trial = read_settings(flags)
    assert "GB in" in doctor_preset.check_weights(trial, "vggt")
    doctor_preset.check_dataset(trial)
    assert "M trained" in doctor_preset.check_policy(trial)
    assert "loss" in doctor_preset.check_forward(trial)
    assert "7 numbers" in doctor_preset.check_select_action(trial)


def test_atlasvla_check_says_what_contradicts_it(flags):
    with pytest.raises(UsageError, match="vggt_embed_dim is 32, but the geometry backbone"):
        read_settings([*flags, "--policy.vggt_embed_dim=32"])
