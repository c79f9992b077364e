"""Defines what ``atlasvla-collect-geometry`` writes: views with geometry and object coordinates, and the state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.cameras.features import geometry_arrays, geometry_features, object_coordinates_key
from lerobot_atlasvla.libero.cameras.views import View
from lerobot_atlasvla.libero.demonstrations.schema import STATE_FEATURE, STATE_KEY, image_feature, libero_state
from lerobot_atlasvla.libero.geometry_data.settings import GeometryConfig


def view_image_key(view: str) -> str:
    """Return the key of a view's image."""
    return f"observation.images.{view}"


def geometry_dataset_features(config: GeometryConfig) -> dict[str, dict[str, Any]]:
    """Return the feature specification for ``LeRobotDataset.create``."""
    features: dict[str, dict[str, Any]] = {STATE_KEY: STATE_FEATURE}
    for view in config.views:
        features[view_image_key(view)] = image_feature(config.image_size)
        features |= geometry_features(view, config.image_size, config.depth_cell_px)
        cells = config.image_size // config.depth_cell_px
        names = ["row", "column", "part"]
        features[object_coordinates_key(view)] = {"dtype": "float32", "shape": (cells, cells, 4), "names": names}
    return features


@dataclass(frozen=True)
class GeometryEpisode:
    """Holds the T rendered states of one episode: what each camera saw, and the arm.

    Attributes:
        views: What each camera saw by its name, T views each.
        eef_pos: End-effector position, (T, 3), m, world frame.
        eef_quat: End-effector orientation, (T, 4), x y z w.
        gripper_qpos: Finger joint positions, (T, 2), m.
    """

    views: dict[str, list[View]]
    eef_pos: np.ndarray
    eef_quat: np.ndarray
    gripper_qpos: np.ndarray

    def __len__(self) -> int:
        return len(self.eef_pos)

    @property
    def image_bytes(self) -> int:
        """Return the size of all images, uncompressed."""
        return sum(view.image.nbytes for seen in self.views.values() for view in seen)

    def frames(self, task: str) -> Iterator[dict[str, Any]]:
        """Yield one frame per state for ``LeRobotDataset.add_frame``; ``task`` is the instruction."""
        states = libero_state(self.eef_pos, self.eef_quat, self.gripper_qpos)
        arrays = {
            key: values for view, seen in self.views.items() for key, values in geometry_arrays(view, seen).items()
        }
        arrays |= {object_coordinates_key(view): _object_coordinates(seen) for view, seen in self.views.items()}
        for t in range(len(self)):
            yield {
                STATE_KEY: states[t],
                **{view_image_key(view): seen[t].image for view, seen in self.views.items()},
                **{key: values[t] for key, values in arrays.items()},
                "task": task,
            }


def _object_coordinates(seen: list[View]) -> np.ndarray:
    found = []
    for view in seen:
        assert view.object_coordinates is not None  # StateScene asks for them
        found.append(view.object_coordinates)
    return np.stack(found)
