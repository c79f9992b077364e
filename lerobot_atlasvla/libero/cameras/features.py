"""How depth and cameras are stored in a LeRobotDataset: plain float32 arrays, exact, beside the images.

LeRobot 0.6.1's own way (an image feature marked ``is_depth_map``) would make every policy take depth for one more
camera, and hands it out in millimeters; of intrinsics and extrinsics it knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lerobot_atlasvla.libero.cameras.views import View

CONVENTION = {
    "depth": "m along the optical axis; the lower median of each cell",
    "intrinsics": (
        "pixels of the stored picture from its top left corner, so that the first pixel's center is (0.5, 0.5); "
        "the picture is mirrored, so the focal length along x is negative"
    ),
    "extrinsics": "from the camera (OpenCV axes: x right, y down, z forward) to the robot's base, m",
}
"""For records of datasets."""


def depth_key(view: str) -> str:
    """Return the key of a view's depth."""
    return f"observation.depth.{view}"


def intrinsics_key(view: str) -> str:
    """Return the key of a view's intrinsics."""
    return f"observation.cameras.{view}.intrinsics"


def extrinsics_key(view: str) -> str:
    """Return the key of a view's extrinsics."""
    return f"observation.cameras.{view}.extrinsics"


def geometry_features(view: str, image_size: int, depth_cell_px: int) -> dict[str, dict[str, Any]]:
    """Return the feature specification of a view's geometry for ``LeRobotDataset.create``.

    Args:
        view: Name of the camera.
        image_size: Height and width of its pictures, pixels.
        depth_cell_px: Side of the cells that depth is reduced to, pixels.
    """
    cells = image_size // depth_cell_px

    def array(side: int) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (side, side), "names": ["row", "column"]}

    return {depth_key(view): array(cells), intrinsics_key(view): array(3), extrinsics_key(view): array(4)}


def geometry_arrays(view: str, seen: Sequence[View]) -> dict[str, np.ndarray]:
    """Return the geometry of a camera's views over time by key, (T, ...) each."""
    return {
        depth_key(view): np.stack([one.depth for one in seen]),
        intrinsics_key(view): np.stack([one.intrinsics for one in seen]),
        extrinsics_key(view): np.stack([one.extrinsics for one in seen]),
    }
