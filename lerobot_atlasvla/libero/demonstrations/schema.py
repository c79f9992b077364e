"""Defines a demonstration on disk: the features of ``lerobot/libero_spatial_image``.

Everything that writes LIBERO demonstrations (the scripted collector, the converter of LIBERO's HDF5 files) goes through
here, so that all of it can be mixed with the published data and trained on with the same configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np

from lerobot_atlasvla.libero.cameras.features import geometry_features
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

SCENE_VIEW = "scene_0"
WRIST_VIEW = "wrist"
"""Names of the two cameras in the keys of their geometry. LeRobot takes statistics of whatever has "image" in its key
for those of an image, so they can't be named like the images."""

STATE_DIM = 8
ACTION_DIM = 7


STATE_FEATURE = {
    "dtype": "float32",
    "shape": (STATE_DIM,),
    "names": {"motors": ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]},
}
"""The names are the published ones and wrong (lerobot#940): the eight numbers are end-effector position (3, m),
axis-angle (3, rad) and the two finger positions (m). They are kept because names are part of the schema."""


def image_feature(image_size: int) -> dict[str, Any]:
    """Return the feature specification of a square image, ``image_size`` pixels high and wide."""
    return {"dtype": "image", "shape": (image_size, image_size, 3), "names": ["height", "width", "channel"]}


def libero_features(image_size: int, depth_cell_px: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the feature specification for ``LeRobotDataset.create``.

    Args:
        image_size: Height and width of both cameras, pixels.
        depth_cell_px: Side of the cells of depth, pixels, if the geometry of both cameras is stored.

    Returns:
        The features that a frame carries; LeRobot adds timestamp and indices itself.
    """
    features = {
        IMAGE_KEY: image_feature(image_size),
        WRIST_IMAGE_KEY: image_feature(image_size),
        STATE_KEY: STATE_FEATURE,
        ACTION_KEY: {
            "dtype": "float32",
            "shape": (ACTION_DIM,),
            "names": {"motors": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]},
        },
    }
    if depth_cell_px is not None:
        for view in (SCENE_VIEW, WRIST_VIEW):
            features |= geometry_features(view, image_size, depth_cell_px)
    return features


class Episode(Protocol):
    """Hands an episode's frames from the worker that made them to the process that writes the dataset."""

    def frames(self, task: str) -> Iterator[dict[str, Any]]:
        """Yield the frames for ``LeRobotDataset.add_frame``; ``task`` is the instruction."""
        ...

    @property
    def image_bytes(self) -> int:
        """Return the size of all its images, uncompressed."""
        ...

    def __len__(self) -> int:
        """Return the number of frames."""
        ...


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
        geometry: Depth, intrinsics and extrinsics of both cameras by key, (T, ...) each, if they are stored.
    """

    agentview: np.ndarray
    wrist: np.ndarray
    eef_pos: np.ndarray
    eef_quat: np.ndarray
    gripper_qpos: np.ndarray
    actions: np.ndarray
    geometry: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def image_bytes(self) -> int:
        """Return the size of all images, uncompressed."""
        return self.agentview.nbytes + self.wrist.nbytes

    def frames(self, task: str) -> Iterator[dict[str, Any]]:
        """Turn the trajectory into frames for ``LeRobotDataset.add_frame``.

        Args:
            task: The instruction (LIBERO's ``task.language``).

        Yields:
            One dict per step with the keys of :func:`libero_features` and ``task``.
        """
        states = libero_state(self.eef_pos, self.eef_quat, self.gripper_qpos)
        for t in range(len(self)):
            yield {
                IMAGE_KEY: rotate_image(self.agentview[t]),
                WRIST_IMAGE_KEY: rotate_image(self.wrist[t]),
                STATE_KEY: states[t],
                ACTION_KEY: self.actions[t].astype(np.float32),
                **{key: values[t] for key, values in self.geometry.items()},
                "task": task,
            }


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
