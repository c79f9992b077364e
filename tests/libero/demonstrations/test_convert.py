"""atlasvla-convert: values, conventions, task names, order, and a round trip."""

import json

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla.libero.demonstrations.convert import RECORD_NAME, convert, main, resize_image
from lerobot_atlasvla.libero.demonstrations.hdf5 import moving_rows, open_data, task_text
from lerobot_atlasvla.libero.demonstrations.schema import (
    FPS,
    IMAGE_KEY,
    ROBOT_TYPE,
    STATE_KEY,
    WRIST_IMAGE_KEY,
    libero_features,
)
from lerobot_atlasvla.libero.tasks import task_from_name
from tests.libero.demonstrations.hdf5_files import (
    INSTRUCTION,
    PIXELS,
    REPO_ID,
    STEM,
    TASK,
    config,
    expected_first_actions,
    first_actions,
    four_demos,
    load,
    make_demo,
    write_file,
)


@pytest.fixture
def source(tmp_path):
    return four_demos(tmp_path / "hdf5")


def pixels(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


# -- values ------------------------------------------------------------------------------------------------------------


def test_every_value_is_the_files_and_images_are_rotated_once(tmp_path, source):
    outcome = convert(config(tmp_path / "ds", source))
    assert (outcome.converted, outcome.total, outcome.files, outcome.new, outcome.skipped) == (4, 4, 1, 4, [])
    dataset = load(tmp_path / "ds")
    assert (dataset.fps, dataset.num_episodes, len(dataset)) == (FPS, 4, 24)
    assert dataset.meta.robot_type == ROBOT_TYPE
    for index in range(len(dataset)):
        frame, demo, row = dataset[index], make_demo(index // 6), index % 6
        for key, stored in ((IMAGE_KEY, "agentview_rgb"), (WRIST_IMAGE_KEY, "eye_in_hand_rgb")):
            np.testing.assert_array_equal(pixels(frame[key]), np.rot90(demo[f"obs/{stored}"][row], 2))
        state = np.concatenate([demo["obs/ee_states"][row], demo["obs/gripper_states"][row]])
        np.testing.assert_array_equal(frame[STATE_KEY].numpy(), state.astype(np.float32))
        np.testing.assert_array_equal(frame["action"].numpy(), demo["actions"][row].astype(np.float32))
        assert frame["task"] == TASK
    features = json.loads((tmp_path / "ds/meta/info.json").read_text())["features"]
    for key, feature in json.loads(json.dumps(libero_features(PIXELS))).items():
        assert {name: features[key][name] for name in feature} == feature


def test_a_round_trip_changes_no_bit(tmp_path):
    """A dataset with our schema, written as LIBERO's files are, is the same dataset after conversion."""
    original = LeRobotDataset.create(
        "local/test",
        fps=FPS,
        features=libero_features(32),
        root=tmp_path / "a",
        robot_type=ROBOT_TYPE,
        use_videos=False,
    )
    random = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(12):
            original.add_frame(
                {
                    IMAGE_KEY: random.integers(0, 255, (32, 32, 3), np.uint8),
                    WRIST_IMAGE_KEY: random.integers(0, 255, (32, 32, 3), np.uint8),
                    STATE_KEY: random.normal(size=8).astype(np.float32),
                    "action": random.uniform(-1, 1, 7).astype(np.float32),
                    "task": TASK,
                }
            )
        original.save_episode()
    original.finalize()
    original = LeRobotDataset("local/test", root=tmp_path / "a")

    demos = []
    for episode in range(2):
        frames = [original[index] for index in range(12 * episode, 12 * episode + 12)]
        state = np.stack([frame[STATE_KEY].numpy() for frame in frames])
        demos.append(
            {
                "actions": np.stack([frame["action"].numpy() for frame in frames]).astype(np.float64),
                "obs/agentview_rgb": np.stack([pixels(frame[IMAGE_KEY])[::-1, ::-1] for frame in frames]),
                "obs/eye_in_hand_rgb": np.stack([pixels(frame[WRIST_IMAGE_KEY])[::-1, ::-1] for frame in frames]),
                "obs/ee_pos": state[:, :3].astype(np.float64),
                "obs/ee_ori": state[:, 3:6].astype(np.float64),
                "obs/gripper_states": state[:, 6:].astype(np.float64),
            }
        )
    write_file(tmp_path / "hdf5" / f"{STEM}_demo.hdf5", demos)
    assert main([f"--root={tmp_path / 'b'}", f"--folder={tmp_path / 'hdf5'}", f"--repo_id={REPO_ID}"]) == 0
    converted = load(tmp_path / "b")
    assert len(converted) == len(original) == 24
    assert converted.meta.features == original.meta.features
    for index in range(24):
        before, after = original[index], converted[index]
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key


def test_observations_after_the_action_move_to_the_next_one(tmp_path):
    """As LIBERO's own files are: a row holds what its action led to, and the state that it started from."""
    demo = make_demo(rows=6)
    demo["obs/joint_states"] = np.concatenate([demo["states"][1:, 1:8], demo["states"][-1:, 1:8]])
    write_file(tmp_path / "hdf5" / f"{STEM}_demo.hdf5", [demo])
    convert(config(tmp_path / "ds", tmp_path / "hdf5"))
    dataset = load(tmp_path / "ds")
    assert len(dataset) == 5
    for row in range(5):
        np.testing.assert_array_equal(pixels(dataset[row][IMAGE_KEY]), np.rot90(demo["obs/agentview_rgb"][row], 2))
        np.testing.assert_array_equal(dataset[row]["action"].numpy(), demo["actions"][row + 1].astype(np.float32))

    convert(config(tmp_path / "as_stored", tmp_path / "hdf5", observation_timing="before"))
    assert len(load(tmp_path / "as_stored")) == 6


def test_files_in_the_opencv_convention_are_not_flipped_twice(tmp_path):
    write_file(tmp_path / "hdf5/a_demo.hdf5", [make_demo()], {"macros_image_convention": "opencv"})
    convert(config(tmp_path / "ds", tmp_path / "hdf5"))
    stored = make_demo()["obs/agentview_rgb"][2]  # robosuite turned it upright already, but left and right are swapped
    np.testing.assert_array_equal(pixels(load(tmp_path / "ds")[2][IMAGE_KEY]), stored[:, ::-1])


def test_the_noop_rule_is_openvlas():
    still, tiny, moving = np.zeros(6), np.full(6, 1e-5), np.full(6, 0.1)
    actions = [
        (still, 1.0),  # nothing kept yet: the gripper does not matter
        (still, -1.0),
        (moving, -1.0),
        (tiny, -1.0),
        (still, 1.0),  # the gripper closes
        (still, 1.0),
        (moving, 1.0),
        (np.full(6, 1e-4), 1.0),  # norm above 1e-4
    ]
    rows = moving_rows(np.stack([np.append(motion, gripper) for motion, gripper in actions]))
    assert rows.tolist() == [False, False, True, False, True, False, True, True]


@pytest.mark.parametrize(("keep", "length"), [(False, 4), (True, 6)])
def test_noops_are_dropped_with_their_observations(tmp_path, keep, length):
    demo = make_demo()
    demo["actions"][[2, 3], :6] = 0
    demo["actions"][[1, 2, 3], 6] = 1
    write_file(tmp_path / "hdf5/a_demo.hdf5", [demo])
    root = tmp_path / "ds"
    flags = [f"--root={root}", f"--folder={tmp_path / 'hdf5'}", f"--repo_id={REPO_ID}"]
    assert main([*flags, *(["--keep_noops=true"] if keep else [])]) == 0
    dataset = load(root)
    assert len(dataset) == length
    if not keep:
        np.testing.assert_array_equal(pixels(dataset[2][IMAGE_KEY]), np.rot90(demo["obs/agentview_rgb"][4], 2))
    (episode,) = json.loads((root / "meta" / RECORD_NAME).read_text())["episodes"]
    assert episode == {"file": "a_demo.hdf5", "demo": "demo_0", "frames": length, "noops": 6 - length}


def test_images_can_be_resized(tmp_path, source, capsys):
    flags = [f"--root={tmp_path / 'ds'}", f"--folder={source}", f"--repo_id={REPO_ID}", "--image_size=4"]
    assert main(flags) == 0
    assert "resized from 8 to 4 px" in capsys.readouterr().out
    expected = np.rot90(resize_image(make_demo()["obs/agentview_rgb"][0], 4), 2)
    np.testing.assert_array_equal(pixels(load(tmp_path / "ds")[0][IMAGE_KEY]), expected)
    checkers = np.indices((8, 8)).sum(0)[..., None].repeat(3, axis=2) % 2 * 255
    assert np.abs(resize_image(checkers.astype(np.uint8), 4).astype(int) - 127).max() < 40  # averaged, not picked


# -- task names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("KITCHEN_SCENE3_turn_on_the_stove", "turn on the stove"),
        ("KITCHEN_SCENE10_close_the_top_drawer", "close the top drawer"),
        ("LIVING_ROOM_SCENE2_pick_up_the_butter", "pick up the butter"),
        ("STUDY_SCENE1_pick_up_the_book", "pick up the book"),
        (STEM, TASK),
    ],
)
def test_task_from_a_name(name, task):
    assert task_from_name(name) == task


@pytest.mark.parametrize(
    ("name", "attributes", "source", "task"),
    [
        (f"{STEM}_demo", None, "benchmark", TASK),
        (f"{STEM}_demo", None, "attribute", INSTRUCTION),
        ("renamed", None, "benchmark", TASK),  # from the name of the bddl file
        ("renamed", {"problem_info": '{"language_instruction": "\\"turn it on\\""}'}, "benchmark", "turn it on"),
        ("KITCHEN_SCENE3_turn_on_the_stove_demo", {}, "attribute", "turn on the stove"),
        ("my_task", {"problem_info": "{broken"}, "attribute", "my task"),
    ],
)
def test_task_text_of_a_file(tmp_path, name, attributes, source, task):
    path = write_file(tmp_path / f"{name}.hdf5", [make_demo()], attributes)
    file, data = open_data(path)
    with file:
        assert task_text(data, path, source) == task


def test_tasks_from_names_are_liberos_own():
    """All 130 tasks: what policies are told at evaluation."""
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from libero.libero.benchmark import grab_language_from_filename
    from libero.libero.benchmark.libero_suite_task_map import libero_task_map

    names = {name for suite in libero_task_map.values() for name in suite}
    assert len(names) >= 130
    assert {name: task_from_name(name) for name in names} == {
        name: grab_language_from_filename(name + ".bddl") for name in names
    }


# -- files and order ---------------------------------------------------------------------------------------------------


def test_files_keep_their_order_and_demonstrations_are_ordered_by_number(tmp_path):
    b = write_file(tmp_path / "x/b_demo.hdf5", [make_demo(seed) for seed in range(11)])
    a = write_file(tmp_path / "y/b_demo.hdf5", [make_demo(20)])  # the same task again
    flags = [f"--root={tmp_path / 'ds'}", f"--repo_id={REPO_ID}", f"--files=[{b}, {a}]"]
    assert main(flags) == 0
    assert first_actions(tmp_path / "ds") == expected_first_actions(*range(11), 20)
    assert load(tmp_path / "ds").meta.total_tasks == 1

    convert(config(tmp_path / "folder", tmp_path, max_demos_per_file=2))
    assert first_actions(tmp_path / "folder") == expected_first_actions(0, 1, 20)
    convert(config(tmp_path / "folder", tmp_path, max_demos_per_file=3))  # may grow
    assert first_actions(tmp_path / "folder") == expected_first_actions(0, 1, 20, 2)
