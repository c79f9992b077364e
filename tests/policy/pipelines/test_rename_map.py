"""A checkpoint keeps the --rename_map of its training data; what comes under the policy's own names stays."""

import json
import shutil

import numpy as np
import pytest
from lerobot.envs.configs import LiberoEnv

from eval.rollout.policy.checkpoint import read_checkpoint
from eval.rollout.workers.worker import _load
from lerobot_atlasvla.export.reference import Reference, read_config
from lerobot_atlasvla.serving.served_policy import ServedPolicy
from tests.conftest import IMAGE, PIXELS, STATE, STATE_DIM, TASK, WRIST

SWAPPED = {IMAGE: WRIST, WRIST: IMAGE}


@pytest.fixture(scope="module")
def renaming(checkpoint, tmp_path_factory):
    """The checkpoint, as if its dataset had called each camera by the other's name."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("renaming") / "checkpoint")
    file = folder / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text())
    (step,) = (step for step in pipeline["steps"] if step["registry_name"] == "rename_observations_processor")
    step["config"]["rename_map"] = SWAPPED
    file.write_text(json.dumps(pipeline))
    return folder


@pytest.fixture(scope="module")
def observation():
    random = np.random.default_rng(0)
    images = {key: random.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8) for key in SWAPPED}
    return images, random.normal(size=STATE_DIM).astype(np.float32)


def test_the_server_shows_each_camera_to_its_own_place(checkpoint, renaming, observation):
    images, state = observation
    chunks = [
        ServedPolicy.load(str(folder), "cpu").predict(images | {STATE: state, "task": TASK})
        for folder in (checkpoint, renaming)
    ]
    np.testing.assert_array_equal(*chunks)


def test_so_does_an_export(checkpoint, renaming, observation):
    chunks = [Reference(folder, read_config(folder)).predict(*observation, TASK) for folder in (checkpoint, renaming)]
    np.testing.assert_array_equal(*chunks)


def test_so_does_a_rollout(renaming):
    cameras = {"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"}
    environment = LiberoEnv(task="libero_spatial", camera_name_mapping=cameras)
    _, preprocess, _ = _load(read_checkpoint(renaming, "cpu", None), environment)
    assert preprocess.steps[0].rename_map == {}
