"""Checkpoints and datasets that earlier commits wrote still load, and mean the same."""

import json
import shutil

import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla.libero.demonstrations.collect import main as collect

from .kept_actions import CHECKPOINTS, FILE, HERE, NAMES, actions

DATASET = HERE / "data/dataset_746c87b"
COLLECTED_WITH = ["--episodes_per_task=1", "--task_ids=[2]", "--image_size=32", "--displace_cm=4", "--seed=7"]


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_checkpoint_gives_the_actions_it_gave_when_it_was_made(name):
    expected = torch.tensor(json.loads(FILE.read_text())[name])
    # Matrix products round differently from one CPU to another; a wrong layer or statistic is off by 0.01 and more.
    torch.testing.assert_close(actions(CHECKPOINTS / name), expected, atol=2e-4, rtol=0)


def test_a_collected_dataset_of_an_earlier_commit_opens_and_is_recognized(tmp_path):
    root = shutil.copytree(DATASET, tmp_path / "dataset")
    dataset = LeRobotDataset("local/earlier", root=root)
    assert dataset.num_episodes == 1
    assert dataset[0]["observation.images.wrist_image"].shape == (3, 32, 32)
    assert dataset[0]["action"].shape == (7,)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    # The collector recognizes its own record: there is nothing left to do, and it does nothing.
    assert collect([f"--root={root}", "--repo_id=local/earlier", *COLLECTED_WITH]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
