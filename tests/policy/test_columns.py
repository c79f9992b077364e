"""Data as people have it: what the policy does not read is left alone, and other names are answered with a command."""

import json
import shlex

import numpy as np
import pytest
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.commands import doctor_preset, rename_columns
from lerobot_atlasvla.commands.doctor_machine import CheckFailedError
from lerobot_atlasvla.policy.columns import squeezed_views, suggested_names
from tests.conftest import PIXELS, STATE, raw_batch, tiny_config

FRONT = "observation.images.front"


def vector(size, dtype="float32"):
    return {"dtype": dtype, "shape": (size,), "names": None}


def image(height=PIXELS, width=PIXELS, channels=3):
    return {"dtype": "image", "shape": (height, width, channels), "names": ["height", "width", "channel"]}


PLAIN = {FRONT: image(), "observation.state": vector(6), "action": vector(5)}
OPENPI = {"image": image(), "wrist_image": image(), "state": vector(8), "actions": vector(7)}


def test_a_state_that_only_a_rename_map_could_bring_is_refused(tmp_path):
    """Its statistics would keep the old name."""
    dataset = LeRobotDataset.create(
        "local/data", 10, {FRONT: image(), "robot": vector(6), "action": vector(7)}, tmp_path / "x"
    )
    config = tiny_config()
    with pytest.raises(ValueError, match=rf"no {STATE}, but \['{FRONT}', 'robot', 'action'\].* --rename_map does not"):
        AtlasVLAPolicy(config, dataset_meta=dataset.meta)


def write(root, features, task="push"):
    dataset = LeRobotDataset.create("local/data", 10, features, root=root, use_videos=False)
    random = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(5):
            frame = {"task": task}
            for key, feature in features.items():
                kind, shape = feature["dtype"], feature["shape"]
                if kind == "string":
                    frame[key] = "reach"
                elif kind == "bool":
                    frame[key] = random.random(shape) > 0.5
                elif kind == "image" and shape[2] == 3:
                    frame[key] = random.integers(0, 255, shape, np.uint8)
                elif kind == "image":
                    frame[key] = random.integers(0, 3000, shape, np.uint16)
                else:
                    frame[key] = random.uniform(-1, 1, shape).astype(kind)
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    return root


def trial(root, **overrides):
    config = tiny_config(**{"input_features": {}, "output_features": {}} | overrides)
    return doctor_preset.Trial(config, DatasetConfig(repo_id="local/data", root=str(root)))


def learn_and_act(root, **overrides):
    """One batch of the data loader through the loss, one observation through both pipelines, as atlasvla-check does."""
    subject = trial(root, **overrides)
    doctor_preset.check_dataset(subject)
    doctor_preset.check_policy(subject)
    assert doctor_preset.check_forward(subject).startswith("the first and the last frame of local/data, loss")
    doctor_preset.check_select_action(subject)
    return subject.policy.config


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("features", "state", "action"),
    [
        ({"action": vector(1)}, 6, 1),
        ({"observation.state": vector(1)}, 1, 5),
        ({"observation.state": vector(1), "action": vector(1)}, 1, 1),
        ({"observation.subtask": vector(1, "string"), "note": vector(1, "string")}, 6, 5),
        ({"observation.contact": vector(1, "bool"), "observation.touched": vector(3, "bool")}, 6, 5),
        ({"observation.effort": vector(6), "observation.mode": vector(1, "int64")}, 6, 5),
        ({"action.raw": vector(2), "action_source": vector(1, "string")}, 6, 5),
        ({"observation.environment_state": vector(4)}, 6, 5),
    ],
)
def test_columns_of_every_kind(tmp_path, features, state, action, in_memory):
    config = learn_and_act(write(tmp_path / "data", PLAIN | features), actions_in_memory=in_memory)
    assert (config.state_dim, config.action_dim) == (state, action)
    assert list(config.input_features) == [FRONT, "observation.state"]
    assert list(config.output_features) == ["action"]


def test_one_number_is_not_mixed_up_with_a_batch(tmp_path):
    """LeRobot hands a batch of single numbers on as (1, B); whose number is whose must not change."""
    policy = AtlasVLAPolicy(tiny_config(input_features=tiny_config().input_features | {STATE: feature("STATE", 1)}))
    batch = raw_batch(3) | {STATE: torch.tensor([0.1, 0.2, 0.3])}
    stats = {
        STATE: {"mean": torch.zeros(1), "std": torch.ones(1)},
        "action": {"mean": torch.zeros(7), "std": torch.ones(7)},
    }
    preprocess, _ = make_atlasvla_pre_post_processors(policy.config, stats)
    from lerobot_atlasvla.inputs import prepare

    ready = prepare(policy.config, preprocess(batch), training=False)
    assert torch.equal(ready.state_BN, torch.tensor([[0.1], [0.2], [0.3]]))


def feature(kind, *shape):
    return PolicyFeature(FeatureType[kind], shape)


def test_a_state_in_parts_is_put_together_in_the_datas_order(tmp_path):
    split = {"observation.state.arm": vector(6), "observation.state.gripper": vector(1)}
    root = write(tmp_path / "data", {FRONT: image(), **split, "action": vector(7)})
    config = learn_and_act(root)
    assert config.state_keys == tuple(split)
    assert config.state_dim == 7
    from lerobot_atlasvla.inputs import _state

    arm, gripper = torch.rand(2, 6), torch.rand(2)
    batch = {"observation.state.arm": arm, "observation.state.gripper": gripper}
    assert torch.equal(_state(config, batch), torch.cat([arm, gripper[:, None]], dim=1))
    with pytest.raises(ValueError, match="different batch sizes"):
        _state(config, batch | {"observation.state.arm": torch.rand(3, 6)})
    with pytest.raises(ValueError, match=r"observation\.state\.arm must have shape \(B, 6\)"):
        _state(config, batch | {"observation.state.arm": torch.rand(2, 5)})


# --- cameras ---


def test_a_depth_camera_beside_an_rgb_one_is_left_out(tmp_path, caplog):
    root = write(tmp_path / "data", PLAIN | {"observation.images.depth": image(channels=1)})
    config = learn_and_act(root)
    assert config.view_keys == (FRONT,)
    assert "Cameras that are not RGB are left out: observation.images.depth (1, 32, 32)" in caplog.text


def test_a_camera_that_is_asked_for_or_alone_must_be_rgb(tmp_path):
    depth = {"observation.images.depth": image(channels=1)}
    asked = write(tmp_path / "asked", PLAIN | depth)
    alone = write(tmp_path / "alone", {**depth, "observation.state": vector(6), "action": vector(5)})
    for root, views in ((asked, (FRONT, "observation.images.depth")), (alone, ())):
        with pytest.raises(CheckFailedError, match=r"observation.images.depth must be an RGB image .*--policy.views"):
            doctor_preset.check_dataset(trial(root, views=views))


def test_images_that_are_squeezed_are_named_with_the_size_that_keeps_them(tmp_path):
    root = write(tmp_path / "data", PLAIN | {FRONT: image(48, 64)})
    line = doctor_preset.check_dataset(trial(root))
    assert "squeezed to 32 x 32 (height x width) without keeping their proportions: observation.images.front" in line
    assert "--policy.image_size='[24, 32]'" in line
    assert "proportions" not in doctor_preset.check_dataset(trial(root, image_size=(24, 32)))
    config = tiny_config(vggt_patch_embed="conv", vggt_patch_size=14, image_size=(224, 224))
    config.input_features[FRONT] = feature("VISUAL", 3, 480, 640)
    assert "--policy.image_size='[168, 224]'" in squeezed_views(config)


# --- other names ---


def test_openpis_names_are_listed_and_the_command_that_is_suggested_works(tmp_path):
    root = write(tmp_path / "it's data", OPENPI)
    with pytest.raises(CheckFailedError) as raised:
        doctor_preset.check_dataset(trial(root))
    message = str(raised.value)
    assert "the data have ['image', 'wrist_image', 'state', 'actions']" in message
    words = shlex.split(message.split("`")[1])
    assert words[:3] == ["python", "-m", "lerobot_atlasvla.commands.rename_columns"]
    assert rename_columns.main(words[3:]) == 0
    renamed = tmp_path / "it's data_renamed"
    config = learn_and_act(renamed)
    assert (config.state_dim, config.action_dim) == (8, 7)
    before, after = (LeRobotDataset("local/data", root=folder) for folder in (root, renamed))
    for old, new in json.loads(words[5].partition("=")[2]).items():
        assert torch.equal(before[7][old], after[7][new])
        assert np.array_equal(before.meta.stats[old]["mean"], after.meta.stats[new]["mean"])
    assert after.meta.episodes[1]["tasks"] == before.meta.episodes[1]["tasks"]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"observation/image": image(), "observation/state": vector(8), "actions": vector(7)}, "it"),
        ({"cam_high": image(), "qpos": vector(14), "action": vector(14)}, "cam_high qpos"),
        ({"image": image(), "observation.images.image": image()}, ""),
        ({"state": vector(8, "string"), "actions": vector(7, "bool")}, ""),
        (PLAIN, ""),
    ],
)
def test_only_names_that_leave_no_doubt_are_suggested(columns, names):
    found = suggested_names(columns)
    assert list(found) == ([*columns] if names == "it" else names.split())
    assert set(found.values()) <= {
        "observation.images.image",
        "observation.images.cam_high",
        "observation.state",
        "action",
    }


def test_a_missing_action_lists_all_columns(tmp_path):
    root = write(tmp_path / "data", {FRONT: image(), "observation.state": vector(6), "torque": vector(5)})
    with pytest.raises(CheckFailedError, match=r"AtlasVLA needs 'action'.*'torque'"):
        doctor_preset.check_dataset(trial(root))


# --- the instruction ---


@pytest.mark.parametrize("task", [{}, {"task": None}, {"task": 3}, {"task": ["a", None]}])
def test_an_observation_without_an_instruction_says_what_it_lacks(task):
    preprocess, _ = make_atlasvla_pre_post_processors(tiny_config())
    observation = {key: value[0] for key, value in raw_batch(1).items() if key.startswith("observation")} | task
    with pytest.raises(ValueError, match="needs 'task', the instruction"):
        preprocess(observation)


def test_an_empty_instruction_is_one(tmp_path):
    learn_and_act(write(tmp_path / "data", PLAIN, task=""))
