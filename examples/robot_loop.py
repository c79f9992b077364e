"""Drive a robot with a saved policy: LeRobot's calls in a plain loop, to read and to change.

python examples/robot_loop.py --checkpoint=outputs/train/my_robot/checkpoints/last/pretrained_model \
  --task="put the cube into the box" --robot.type=so101_follower --robot.port=/dev/ttyACM0 \
  --robot.cameras='{"front": {"type": "opencv", "index_or_path": 0, "width": 640, "height": 480, "fps": 30}}'

``lerobot-rollout`` does the same and more (recording, real-time chunking, interventions).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import draccus
import torch
from lerobot.cameras.opencv import OpenCVCameraConfig  # noqa: F401 (registers --robot.cameras' type)
from lerobot.common.control_utils import predict_action
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import make_robot_action
from lerobot.robots import Robot, RobotConfig, make_robot_from_config, so_follower  # noqa: F401 (registers so101_follower)
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features
from lerobot.utils.robot_utils import precise_sleep

from lerobot_atlasvla import AtlasVLAPolicy


@dataclass(kw_only=True)
class LoopConfig:
    """Settings of the loop; each is a flag."""

    # Folder of a checkpoint, or its Hub id.
    checkpoint: str
    # The robot, as for lerobot-record.
    robot: RobotConfig
    # The instruction.
    task: str
    # Control steps per second; that of the training data.
    fps: float = 30
    # Seconds until the loop ends.
    duration: float = 30


def run(robot: Robot, checkpoint: str | Path, task: str, fps: float, duration: float) -> int:
    """Execute the policy's actions on a connected robot.

    Args:
        robot: The robot; its cameras and joints have the names of the training data.
        checkpoint: Folder of a checkpoint, or its Hub id.
        task: The instruction.
        fps: Control steps per second.
        duration: Seconds until the loop ends.

    Returns:
        Number of executed actions.
    """
    policy = AtlasVLAPolicy.from_pretrained(checkpoint)
    device = policy.config.device
    preprocess, postprocess = make_pre_post_processors(
        policy.config, str(checkpoint), preprocessor_overrides={"device_processor": {"device": device}}
    )
    features = hw_to_dataset_features(robot.observation_features, "observation")
    features |= hw_to_dataset_features(robot.action_features, "action")
    policy.reset()
    steps = round(duration * fps)
    for _ in range(steps):
        started = time.perf_counter()
        frame = build_dataset_frame(features, robot.get_observation(), "observation")
        action = predict_action(
            frame,
            policy,
            torch.device(device),
            preprocess,
            postprocess,
            use_amp=False,
            task=task,
            robot_type=robot.name,
        )
        robot.send_action(make_robot_action(action, features))
        precise_sleep(max(0.0, 1 / fps - (time.perf_counter() - started)))
    return steps


@draccus.wrap()
def main(cfg: LoopConfig) -> None:
    """Connect the robot, run the loop, and disconnect the robot whatever happens."""
    robot = make_robot_from_config(cfg.robot)
    robot.connect()
    try:
        run(robot, cfg.checkpoint, cfg.task, cfg.fps, cfg.duration)
    finally:
        robot.disconnect()


if __name__ == "__main__":
    main()
