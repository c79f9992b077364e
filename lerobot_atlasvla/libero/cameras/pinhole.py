"""The camera convention of stored images, and points from depth.

Images are stored as LeRobot stores LIBERO's: upright, but mirrored, so what is to the camera's right is on their
left. Extrinsics are the true camera's, a proper rotation with OpenCV's axes (x right, y down, z forward), so the mirror
is in the intrinsics: **the focal length along x is negative**. Pixel coordinates count from the top left corner of the
image; the center of its first pixel is (0.5, 0.5).

Shape suffixes: H and W pixels or cells, N points; any number of leading axes before them.
"""

from __future__ import annotations

import math

import numpy as np

# From OpenCV's camera axes to MuJoCo's (x right, y up, the line of sight along -z).
_OPENCV_TO_MUJOCO = np.diag([1.0, -1.0, -1.0])


def intrinsics_of(fovy_deg: float, size: int) -> np.ndarray:
    """Return the (3, 3) float32 intrinsics of a stored square image.

    Args:
        fovy_deg: Field of view from top to bottom, degrees.
        size: Height and width, pixels.
    """
    focal = size / 2 / math.tan(math.radians(fovy_deg) / 2)
    return np.array([[-focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=np.float32)


def extrinsics_of(
    position: np.ndarray, rotation: np.ndarray, base_position: np.ndarray, base_rotation: np.ndarray
) -> np.ndarray:
    """Return the (4, 4) float32 matrix from a camera's frame (OpenCV's axes) to the robot base's.

    Args:
        position: Of the camera in the world, (3,), m.
        rotation: From MuJoCo's camera axes to the world's, (3, 3).
        base_position: Of the robot's base in the world, (3,), m.
        base_rotation: From the base's axes to the world's, (3, 3).
    """
    matrix = np.eye(4, dtype=np.float64)
    matrix[:3, :3] = base_rotation.T @ rotation @ _OPENCV_TO_MUJOCO
    matrix[:3, 3] = base_rotation.T @ (position - base_position)
    return matrix.astype(np.float32)


def cell_medians(depth_HW: np.ndarray, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce depth to the median of square cells, the lower one of two, so that it is the depth of something.

    Args:
        depth_HW: Depth, m.
        cell: Side of a cell, pixels; it divides both sides of the image.

    Returns:
        (H / cell, W / cell), m; and the pixels that have these depths, as indices into the flat image.
    """
    height, width = (side // cell for side in depth_HW.shape)

    def by_cell(pixels_HW: np.ndarray) -> np.ndarray:
        return pixels_HW.reshape(height, cell, width, cell).swapaxes(1, 2).reshape(height, width, cell * cell)

    depth, pixels = by_cell(depth_HW), by_cell(np.arange(depth_HW.size).reshape(depth_HW.shape))
    middle = np.argsort(depth, axis=-1, kind="stable")[..., [(cell * cell - 1) // 2]]
    return np.take_along_axis(depth, middle, axis=-1)[..., 0], np.take_along_axis(pixels, middle, axis=-1)[..., 0]


def unproject(depth_HW: np.ndarray, intrinsics_33: np.ndarray, extrinsics_44: np.ndarray, size: int) -> np.ndarray:
    """Return the points that an image shows, in the frame that the extrinsics lead to (the robot base's).

    Args:
        depth_HW: Depth along the optical axis, m, of pixels or of cells.
        intrinsics_33: In pixels of the stored image.
        extrinsics_44: From the camera's frame.
        size: Height of the stored image, pixels.

    Returns:
        (H, W, 3), m: the point at the center of each pixel or cell.
    """
    cell = size / depth_HW.shape[0]
    rows_HW, columns_HW = (np.indices(depth_HW.shape) + 0.5) * cell
    pixels_HW3 = np.stack([columns_HW, rows_HW, np.ones_like(rows_HW)], axis=-1)
    camera_HW3 = pixels_HW3 @ np.linalg.inv(intrinsics_33.astype(np.float64)).T * depth_HW[..., None]
    return camera_HW3 @ extrinsics_44[:3, :3].T + extrinsics_44[:3, 3]


def project(points_N3: np.ndarray, intrinsics_33: np.ndarray, extrinsics_44: np.ndarray) -> np.ndarray:
    """Return where points appear: column and row in pixels of the stored image, and depth, m, each (N, 3).

    Args:
        points_N3: In the frame that the extrinsics lead to, m.
        intrinsics_33: In pixels of the stored image.
        extrinsics_44: From the camera's frame.
    """
    camera_N3 = (points_N3 - extrinsics_44[:3, 3]) @ extrinsics_44[:3, :3]
    depth_N1 = camera_N3[:, 2:]
    pixels_N3 = camera_N3 @ intrinsics_33.T
    return np.concatenate([pixels_N3[:, :2] / depth_N1, depth_N1], axis=1)
