"""Defines a demonstration on disk: the features of ``lerobot/libero_spatial_image``.

Everything that writes LIBERO demonstrations (the scripted collector, the converter of LIBERO's HDF5 files) goes through
here, so that all of it can be mixed with the published data and trained on with the same configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.tasks import IMAGE_KEY, WRIST_IMAGE_KEY

SCHEMA_VERSION = 1
"""Raised whenever the same simulation would be stored differently; a dataset is never continued across versions."""

FPS = 10
"""A label, not a measurement: LIBERO runs at 20 Hz with one action a step, but the published metadata says 10.

Timestamps, and the time offsets that LeRobot derives from them, follow this number, so datasets that are to be mixed
must agree on it. Kept exactly as published.
"""

ROBOT_TYPE = "panda"

STATE_KEY = "observation.state"
ACTION_KEY = "action"

STATE_DIM = 8
ACTION_DIM = 7


def libero_features(image_size: int) -> dict[str, dict[str, Any]]:
    """Return the feature specification for ``LeRobotDataset.create``.

    The state's names are the published ones and wrong (lerobot#940): the eight numbers are end-effector position (3,
    m), axis-angle (3, rad) and the two finger positions (m). They are kept because names are part of the schema.

    Args:
        image_size: Height and width of both cameras, pixels.

    Returns:
        The four features that a frame carries; LeRobot adds timestamp and indices itself.
    """
    image = {"dtype": "image", "shape": (image_size, image_size, 3), "names": ["height", "width", "channel"]}
    return {
        IMAGE_KEY: dict(image),
        WRIST_IMAGE_KEY: dict(image),
        STATE_KEY: {
            "dtype": "float32",
            "shape": (STATE_DIM,),
            "names": {"motors": ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]},
        },
        ACTION_KEY: {
            "dtype": "float32",
            "shape": (ACTION_DIM,),
            "names": {"motors": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]},
        },
    }


@dataclass(frozen=True)
class Trajectory:
    """One episode as the simulator gives it; row ``t`` is what was seen before action ``t`` was taken.

    Attributes:
        agentview: Scene camera, (T, H, W, 3) uint8, as rendered (not rotated).
        wrist: Wrist camera, (T, H, W, 3) uint8, as rendered (not rotated).
        eef_pos: End-effector position, (T, 3), m, world frame.
        eef_quat: End-effector orientation, (T, 4), x y z w.
        gripper_qpos: Finger joint positions, (T, 2), m.
        actions: What a policy should have done, (T, 7) float32 in [-1, 1].
    """

    agentview: np.ndarray
    wrist: np.ndarray
    eef_pos: np.ndarray
    eef_quat: np.ndarray
    gripper_qpos: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)


@cache
def _libero_step() -> Any:
    # LeRobot takes many seconds to import; only the process that writes needs it.
    from lerobot.processor.env_processor import LiberoProcessorStep

    return LiberoProcessorStep()


def rotate_image(image: np.ndarray) -> np.ndarray:
    """Turn rendered images (..., H, W, 3) by 180 degrees, as LeRobot's ``LiberoProcessorStep`` does at evaluation."""
    return np.ascontiguousarray(image[..., ::-1, ::-1, :])


def libero_state(eef_pos: np.ndarray, eef_quat: np.ndarray, gripper_qpos: np.ndarray) -> np.ndarray:
    """Compute the proprioception exactly as a policy gets it at evaluation, by LeRobot's own ``LiberoProcessorStep``.

    Args:
        eef_pos: (T, 3), m.
        eef_quat: (T, 4), x y z w.
        gripper_qpos: (T, 2), m.

    Returns:
        (T, 8) float32: position, axis-angle with the angle in [0, 2 pi], finger positions.
    """
    import torch

    robot_state = {
        "eef": {"pos": torch.as_tensor(eef_pos), "quat": torch.as_tensor(eef_quat)},
        "gripper": {"qpos": torch.as_tensor(gripper_qpos)},
    }
    return _libero_step().observation({"observation.robot_state": robot_state})[STATE_KEY].numpy()


def trajectory_frames(trajectory: Trajectory, task: str) -> Iterator[dict[str, Any]]:
    """Turn a trajectory into frames for ``LeRobotDataset.add_frame``.

    Args:
        trajectory: One episode.
        task: The instruction (LIBERO's ``task.language``).

    Yields:
        One dict per step with the keys of :func:`libero_features` and ``task``.
    """
    states = libero_state(trajectory.eef_pos, trajectory.eef_quat, trajectory.gripper_qpos)
    for t in range(len(trajectory)):
        yield {
            IMAGE_KEY: rotate_image(trajectory.agentview[t]),
            WRIST_IMAGE_KEY: rotate_image(trajectory.wrist[t]),
            STATE_KEY: states[t],
            ACTION_KEY: trajectory.actions[t].astype(np.float32),
            "task": task,
        }
