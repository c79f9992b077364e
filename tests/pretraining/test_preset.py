"""The preset atlasvla_mini on a backbone of two steps: from simulated views to a trained policy."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.commands import doctor_preset
from lerobot_atlasvla.commands.doctor import read_settings
from lerobot_atlasvla.model.geometry.record import read_record
from lerobot_atlasvla.model.types import Views
from lerobot_atlasvla.pretraining.settings import PretrainConfig
from lerobot_atlasvla.pretraining.trainer import pretrain
from lerobot_atlasvla.utils.cli import UsageError
from tests.conftest import IMAGE
from tests.helpers.commands import succeed
from tests.helpers.geometry.dataset import write_geometry_dataset
from tests.helpers.random_dataset import REPO_ID

PRESET = "--config_path=configs/policy/atlasvla_mini.yaml"
KEPT = Path(__file__).parents[2] / "checkpoints/atlasvla_mini_backbone"
PICTURE = Path(__file__).parents[1] / "golden/data/libero_scene.png"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    root = write_geometry_dataset(folder / "data", episodes=2, frames=1)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_dim": 8, "steps": 2, "batch_size": 2}
    views = {"views": ["scene"], "frame": "base"}
    pretrain(PretrainConfig(dataset_root=root, output_dir=folder / "backbone", **views, **sizes))
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
    assert policy.config.view_keys == (IMAGE,)
    assert policy.model.landmarks.frame == policy.model.landmarks.point_frame == "base"


def test_the_kept_backbone_is_the_one_that_its_list_names_and_acts_with_the_preset(flags):
    for line in (KEPT / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((KEPT / name).read_bytes()).hexdigest() == digest, name
    assert sum(file.stat().st_size for file in KEPT.iterdir()) < 8e6
    chosen = [flag for flag in flags if not flag.startswith("--policy.vggt_model")]
    trial = read_settings(chosen)
    doctor_preset.check_dataset(trial)
    assert "M trained" in doctor_preset.check_policy(trial)
    assert "loss" in doctor_preset.check_forward(trial)


def test_the_kept_backbone_sees_where_liberos_camera_stands(flags):
    trial = read_settings([flag for flag in flags if not flag.startswith("--policy.vggt_model")])
    doctor_preset.check_dataset(trial)
    doctor_preset.check_policy(trial)
    record = read_record(KEPT)
    assert record is not None
    height, width = record.image_size
    picture_HW3 = np.asarray(Image.open(PICTURE).convert("RGB").resize((width, height))) / np.float32(255)
    cameras = (torch.from_numpy(picture_HW3).permute(2, 0, 1)[None],)
    views = Views(cameras, present=(0,), transform=lambda cameras: torch.stack(tuple(cameras), dim=1))
    with torch.no_grad():
        points = trial.policy.model.encode_views(views).points
    # 1.32 m in front of the robot's base and 0.70 m above it, which is in the middle of what the camera sees: forward
    # (the third axis) points back to the robot and down.
    pose_34 = points.poses_BV34[0, 0]
    torch.testing.assert_close(pose_34[:, 3], torch.tensor([1.32, 0.0, 0.70]), rtol=0, atol=0.1)
    assert pose_34[0, 2] < -0.5
    assert pose_34[2, 2] < -0.5
    # The table's top lies at the height of the base's foot or just below; half of the picture shows table.
    heights = points.points_BVQ3[0, 0, :, 2]
    assert ((heights > -0.05) & (heights < 0.05)).float().mean() > 0.4


@pytest.mark.slow
def test_a_feature_cache_gives_the_same_weights(flags, tmp_path):
    cache = f"--policy.feature_cache={tmp_path / 'features'}"
    succeed("atlasvla-cache", *flags, cache)
    saved = train(flags, tmp_path / "plain"), train(flags, tmp_path / "cached", cache)
    plain, cached = (load_file(folder / "model.safetensors") for folder in saved)
    assert plain.keys() == cached.keys()
    assert all((plain[name].float() - cached[name].float()).abs().max() < 1e-4 for name in plain)


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
