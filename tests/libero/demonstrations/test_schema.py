"""The stored schema is the published one, and stored observations are what a policy sees at evaluation."""

import json

import numpy as np
import torch

from lerobot_atlasvla.libero.demonstrations.schema import (
    FPS,
    IMAGE_KEY,
    ROBOT_TYPE,
    STATE_KEY,
    WRIST_IMAGE_KEY,
    Trajectory,
    libero_features,
    rotate_image,
)

# meta/info.json of lerobot/libero_spatial_image, without the columns that LeRobot adds to every dataset.
PUBLISHED = {
    "observation.images.image": {
        "dtype": "image",
        "shape": [256, 256, 3],
        "names": ["height", "width", "channel"],
    },
    "observation.images.wrist_image": {
        "dtype": "image",
        "shape": [256, 256, 3],
        "names": ["height", "width", "channel"],
    },
    "observation.state": {
        "dtype": "float32",
        "shape": [8],
        "names": {"motors": ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]},
    },
    "action": {
        "dtype": "float32",
        "shape": [7],
        "names": {"motors": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]},
    },
}


def random_trajectory(steps: int = 5, size: int = 12) -> Trajectory:
    rng = np.random.default_rng(0)
    quat = rng.normal(size=(steps, 4))
    return Trajectory(
        agentview=rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
        wrist=rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
        eef_pos=rng.normal(size=(steps, 3)),
        eef_quat=quat / np.linalg.norm(quat, axis=1, keepdims=True),
        gripper_qpos=rng.normal(size=(steps, 2)),
        actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
    )


def test_features_are_the_published_ones():
    assert json.loads(json.dumps(libero_features(256))) == PUBLISHED


def test_label_and_robot_are_the_published_ones():
    assert FPS == 10
    assert ROBOT_TYPE == "panda"


def test_image_size_changes_the_cameras_only():
    features = libero_features(64)
    assert features[IMAGE_KEY]["shape"] == features[WRIST_IMAGE_KEY]["shape"] == (64, 64, 3)
    assert features[STATE_KEY] == libero_features(256)[STATE_KEY]


def test_dataset_created_from_the_schema_has_the_published_metadata(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        "test/schema",
        fps=FPS,
        robot_type=ROBOT_TYPE,
        features=libero_features(12),
        root=tmp_path / "ds",
        use_videos=False,
    )
    for frame in random_trajectory().frames("pick up the bowl"):
        dataset.add_frame(frame)
    dataset.save_episode()
    dataset.finalize()

    info = json.loads((tmp_path / "ds" / "meta" / "info.json").read_text())
    assert info["fps"] == 10
    assert info["robot_type"] == "panda"
    assert set(info["features"]) == set(PUBLISHED) | {
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    }
    assert info["features"]["action"] == PUBLISHED["action"]
    assert info["features"]["observation.state"] == PUBLISHED["observation.state"]


def test_rotation_is_a_half_turn():
    image = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    rotated = rotate_image(image)
    np.testing.assert_array_equal(rotated, np.rot90(image, 2, axes=(0, 1)))
    assert rotated.flags.c_contiguous


def test_frames_equal_lerobots_evaluation_pipeline():
    from lerobot.envs.utils import preprocess_observation
    from lerobot.processor.env_processor import LiberoProcessorStep

    trajectory = random_trajectory()
    frames = list(trajectory.frames("pick up the bowl"))
    assert len(frames) == 5
    for t, frame in enumerate(frames):
        # What LeRobot's LiberoEnv returns for this moment, in a vector environment of one.
        observation = preprocess_observation(
            {
                "pixels": {"image": trajectory.agentview[t][None], "wrist_image": trajectory.wrist[t][None]},
                "robot_state": {
                    "eef": {"pos": trajectory.eef_pos[t][None], "quat": trajectory.eef_quat[t][None]},
                    "gripper": {"qpos": trajectory.gripper_qpos[t][None]},
                },
            }
        )
        evaluated = LiberoProcessorStep().observation(observation)
        for key in (IMAGE_KEY, WRIST_IMAGE_KEY):
            stored = torch.from_numpy(frame[key]).permute(2, 0, 1).float() / 255
            torch.testing.assert_close(stored, evaluated[key][0], rtol=0, atol=0)
        torch.testing.assert_close(torch.from_numpy(frame[STATE_KEY]), evaluated[STATE_KEY][0], rtol=0, atol=0)
        np.testing.assert_array_equal(frame["action"], trajectory.actions[t])
        assert frame["task"] == "pick up the bowl"
