"""Store depth and cameras in a LeRobotDataset: plain float32 arrays, exact, beside the images.

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
    "object_coordinates": (
        "x, y, z of each cell in the frame of the body that it shows, m, and a number made of the body's name"
    ),
}
"""For records of datasets."""


def geometry_keys(view: str) -> tuple[str, str, str]:
    """Return the keys of a view's depth, intrinsics and extrinsics."""
    cameras = f"observation.cameras.{view}"
    return f"observation.depth.{view}", f"{cameras}.intrinsics", f"{cameras}.extrinsics"


def object_coordinates_key(view: str) -> str:
    """Return the key of a view's object coordinates: where on which body each cell is."""
    return f"observation.object_coordinates.{view}"


def geometry_features(view: str, image_size: int, depth_cell_px: int) -> dict[str, dict[str, Any]]:
    """Return the feature specification of a view's geometry for ``LeRobotDataset.create``.

    Args:
        view: Name of the camera.
        image_size: Height and width of its images, pixels.
        depth_cell_px: Side of the cells that depth is reduced to, pixels.
    """
    cells = image_size // depth_cell_px

    def array(side: int) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (side, side), "names": ["row", "column"]}

    return dict(zip(geometry_keys(view), map(array, (cells, 3, 4)), strict=True))


def geometry_arrays(view: str, seen: Sequence[View]) -> dict[str, np.ndarray]:
    """Return the geometry of a camera's views over time by key, (T, ...) each."""
    arrays = zip(*((one.depth, one.intrinsics, one.extrinsics) for one in seen), strict=True)
    return dict(zip(geometry_keys(view), map(np.stack, arrays), strict=True))
