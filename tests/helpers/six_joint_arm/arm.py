"""A pretended robot of six joints and three cameras, and what ``lerobot-record`` writes of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.robots import RobotConfig
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features

from tests.helpers.robot import PretendedRobot

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = ("front", "side", "wrist")
HEIGHT, WIDTH = 48, 64
FPS = 30


@RobotConfig.register_subclass("six_joint_arm")
@dataclass(kw_only=True)
class SixJointArmConfig(RobotConfig):
    # Where the arm writes down the actions it got, when it is disconnected.
    log: Path


class SixJointArm(PretendedRobot):
    """Sees noise and remembers what it is told to do."""

    config_class = SixJointArmConfig
    name = "six_joint_arm"

    def __init__(self, config: SixJointArmConfig):
        super().__init__(config)
        self._random = np.random.default_rng(0)

    @property
    def observation_features(self) -> dict:
        return self.action_features | dict.fromkeys(CAMERAS, (HEIGHT, WIDTH, 3))

    @property
    def action_features(self) -> dict:
        return {f"{joint}.pos": float for joint in JOINTS}

    def get_observation(self) -> dict:
        images = {name: self._random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for name in CAMERAS}
        return {name: float(self._random.normal(0, 30)) for name in self.action_features} | images

    def send_action(self, action: dict) -> dict:
        self.received.append({name: float(value) for name, value in action.items()})
        return action


def record(root: Path, repo_id: str, *, episodes: int, frames: int, task: str) -> None:
    """Write a dataset as ``lerobot-record`` does: its features, joints in degrees, one video per camera."""
    arm = SixJointArm(SixJointArmConfig(log=root))
    features = hw_to_dataset_features(arm.observation_features, "observation")
    features |= hw_to_dataset_features(arm.action_features, "action")
    dataset = LeRobotDataset.create(repo_id, FPS, features=features, root=root, robot_type=arm.name, use_videos=True)
    for _ in range(episodes):
        for _ in range(frames):
            seen = arm.get_observation()
            frame = build_dataset_frame(features, seen, "observation") | build_dataset_frame(features, seen, "action")
            dataset.add_frame(frame | {"task": task})
        dataset.save_episode()
    dataset.finalize()
