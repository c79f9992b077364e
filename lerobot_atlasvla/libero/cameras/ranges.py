"""Random poses of the scene camera: the flags that say from where, what is held out, and the drawing of one pose.

A pose is LIBERO's own one, moved in three ways, in this order:

1. around the scene, as LIBERO-Plus does it: elevation about an axis parallel to y, azimuth about the world's z,
   distance from (0, 0, 0.8) m;
2. along its own axes: right, up, forward;
3. turned: pan about the world's vertical, tilt and roll about its own axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_atlasvla.libero.dataset_settings import CollectionError, DatasetConfig
from lerobot_atlasvla.libero.patches.camera_pose import PIVOT, CameraShift, shifted
from lerobot_atlasvla.utils.setting_checks import check_at_least, check_in_range

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

TRIES = 200
"""Poses drawn before the ranges are given up."""


class NoPoseError(CollectionError):
    """None of the camera poses drawn for an attempt will do."""


@dataclass(frozen=True)
class CameraPose:
    """A camera in the world.

    Attributes:
        position: (3,), m.
        rotation: From the camera's axes (MuJoCo's: x right, y up, the line of sight along -z) to the world's.
    """

    position: np.ndarray
    rotation: Rotation


# Lowest and highest value that each range may have; percent of LIBERO's own distance, degrees, cm.
_LIMITS = {
    "azimuth": (-180.0, 180.0),
    "elevation": (-90.0, 90.0),
    "distance": (10.0, 1000.0),
    "right": (-200.0, 200.0),
    "up": (-200.0, 200.0),
    "forward": (-200.0, 200.0),
    "pan": (-180.0, 180.0),
    "tilt": (-90.0, 90.0),
    "roll": (-180.0, 180.0),
}
_HELD_OUT_LIMITS = {
    "hold_out_azimuth": (0.0, 180.0),
    "hold_out_elevation": _LIMITS["elevation"],
    "hold_out_distance": _LIMITS["distance"],
}
_KINDS = (("azimuth", "elevation", "distance"), ("right", "up", "forward"), ("pan", "tilt", "roll"))


@dataclass
class RandomCameraConfig(DatasetConfig):
    """Settings of a command that renders from random scene cameras."""

    # Random poses of the scene camera, at least 1. None if not given.
    random_cameras: int | None = None
    # Lowest and highest azimuth of random poses: degrees around the scene, positive counterclockwise from above.
    azimuth: list[float] = field(default_factory=lambda: [-75.0, 75.0])
    # Lowest and highest elevation, degrees above LIBERO's own pose, which is 51 degrees up on a table.
    elevation: list[float] = field(default_factory=lambda: [-10.0, 20.0])
    # Nearest and farthest distance, percent of LIBERO's own.
    distance: list[float] = field(default_factory=lambda: [80.0, 200.0])
    # Moved sideways, cm, positive to the camera's right.
    right: list[float] = field(default_factory=lambda: [-40.0, 40.0])
    # Moved along the camera's own vertical, cm, positive up.
    up: list[float] = field(default_factory=lambda: [-25.0, 25.0])
    # Moved along the line of sight, cm, positive toward the scene.
    forward: list[float] = field(default_factory=lambda: [-30.0, 30.0])
    # Turned about the world's vertical, degrees, positive to the camera's right.
    pan: list[float] = field(default_factory=lambda: [-15.0, 15.0])
    # Turned about the camera's horizontal, degrees, positive up.
    tilt: list[float] = field(default_factory=lambda: [-10.0, 10.0])
    # Turned about the line of sight, degrees, positive clockwise.
    roll: list[float] = field(default_factory=lambda: [-10.0, 10.0])
    # Probability, 0 to 1, of each of three kinds of motion (around the scene; right, up, forward; pan, tilt, roll). A
    # kind that is left out keeps the values nearest to LIBERO's own pose.
    kind_share: float = 0.67
    # Keep random poses out of these azimuths, for example '[30, 45]': degrees to either side, of where the camera ends
    # up, by whatever motion.
    hold_out_azimuth: list[float] | None = None
    # Keep random poses out of these elevations, degrees above LIBERO's own pose, of where the camera ends up.
    hold_out_elevation: list[float] | None = None
    # Keep random poses out of these distances, percent of LIBERO's own, of where the camera ends up.
    hold_out_distance: list[float] | None = None
    # Side of the square cells that depth is reduced to (their median), pixels; it divides --image_size. 1 is all of it.
    depth_cell_px: int = 4

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        super().validate()
        if self.random_cameras is None:
            if changed := [name for name, value in self.range_settings().items() if value != _default(name)]:
                raise CollectionError(
                    f"--{changed[0]}={getattr(self, changed[0])} has no effect without --random_cameras."
                )
            return
        check_at_least(CollectionError, self, random_cameras=1)
        check_in_range(CollectionError, self, kind_share=(0, 1))
        for name, limits in (_LIMITS | _HELD_OUT_LIMITS).items():
            _check_range(name, getattr(self, name), *limits)
        for name in _HELD_OUT_LIMITS:
            asked, held_out = getattr(self, name.removeprefix("hold_out_")), getattr(self, name)
            if held_out is None:
                continue
            low, high = sorted(map(abs, asked)) if name == "hold_out_azimuth" else asked
            if name == "hold_out_azimuth" and asked[0] < 0 < asked[1]:
                low = 0.0
            if held_out[0] <= low and high <= held_out[1]:
                flag = name.removeprefix("hold_out_")
                raise CollectionError(f"--{name}={held_out} leaves nothing of --{flag}={asked}; change one of them.")

    def range_settings(self) -> dict[str, Any]:
        """Return what poses are drawn from, JSON types; the same for all episodes of a dataset."""
        return {name: getattr(self, name) for name in (*_LIMITS, "kind_share", *_HELD_OUT_LIMITS)}

    def check_cells(self) -> None:
        """Raise :class:`CollectionError` unless images can be cut into cells of depth."""
        if self.depth_cell_px < 1 or self.image_size % self.depth_cell_px:
            raise CollectionError(
                f"--depth_cell_px={self.depth_cell_px} must be at least 1 and divide --image_size={self.image_size}."
            )

    def draw(self, nominal: CameraPose, rng: np.random.Generator, suits: Callable[[CameraPose], bool]) -> CameraPose:
        """Draw a pose that is not held out and that suits; others are drawn again.

        Args:
            nominal: LIBERO's own pose.
            rng: Source of randomness.
            suits: Whether the scene can be seen from a pose.

        Raises:
            NoPoseError: If none of :data:`TRIES` poses will do.
        """
        unsuitable = 0
        for _ in range(TRIES):
            pose = moved(nominal, **self._draw_motion(rng))
            if self._holds_out(pose, nominal):
                continue
            if suits(pose):
                return pose
            unsuitable += 1
        held_out = [f"--{name}={value}" for name in _HELD_OUT_LIMITS if (value := getattr(self, name)) is not None]
        why = "look away from the objects, or are inside or behind the robot or another thing"
        if not unsuitable:
            why = f"are held out ({', '.join(held_out)})"
        raise NoPoseError(
            f"--random_cameras={self.random_cameras} finds no pose of the scene camera in {TRIES} tries, because all "
            f"{why}; choose ranges nearer to LIBERO's own pose, "
            + ", ".join(f"--{name}" for kind in _KINDS for name in kind)
            + "."
        )

    def _draw_motion(self, rng: np.random.Generator) -> dict[str, float]:
        motion = {}
        for kind in _KINDS:
            moves = rng.random() < self.kind_share
            for name in kind:
                low, high = getattr(self, name)
                drawn = rng.uniform(low, high)  # whether it is used or not: one stream whatever the share
                at_rest = 100.0 if name == "distance" else 0.0
                motion[name] = float(drawn if moves else np.clip(at_rest, low, high))
        return motion

    def _holds_out(self, pose: CameraPose, nominal: CameraPose) -> bool:
        azimuth, elevation, distance = orbit_of(pose, nominal)
        values = {"hold_out_azimuth": abs(azimuth), "hold_out_elevation": elevation, "hold_out_distance": distance}
        held_out = ((getattr(self, name), value) for name, value in values.items())
        return any(limits is not None and limits[0] <= value <= limits[1] for limits, value in held_out)


def _default(name: str) -> Any:
    entry = next(entry for entry in fields(RandomCameraConfig) if entry.name == name)
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _check_range(name: str, value: list[float] | None, lowest: float, highest: float) -> None:
    if value is None and name in _HELD_OUT_LIMITS:
        return
    if value is None or len(value) != 2 or not all(math.isfinite(end) for end in value):
        raise CollectionError(f"--{name}={value} must be two numbers, the lower one first, such as '[0, 30]'.")
    low, high = value
    if low > high:
        raise CollectionError(f"--{name}={value} is reversed; the lower number comes first: '[{high}, {low}]'.")
    if low < lowest or high > highest:
        raise CollectionError(f"--{name}={value} must lie within [{lowest:g}, {highest:g}].")


def moved(
    nominal: CameraPose,
    azimuth: float = 0.0,
    elevation: float = 0.0,
    distance: float = 100.0,
    right: float = 0.0,
    up: float = 0.0,
    forward: float = 0.0,
    pan: float = 0.0,
    tilt: float = 0.0,
    roll: float = 0.0,
) -> CameraPose:
    """Move a camera; the flags of :class:`RandomCameraConfig` say what the numbers mean (degrees, percent, cm)."""
    shift = CameraShift(right, up, forward, pan, tilt, roll, azimuth, elevation, distance - 100)
    return CameraPose(*shifted(nominal.position, nominal.rotation, shift))


def orbit_of(pose: CameraPose, nominal: CameraPose) -> tuple[float, float, float]:
    """Return where a camera is as seen from :data:`PIVOT`.

    Args:
        pose: The camera.
        nominal: LIBERO's own pose.

    Returns:
        Azimuth in [-180, 180) degrees and elevation in degrees, both against LIBERO's own pose, and the distance in
        percent of LIBERO's own.
    """
    (azimuth, elevation, distance), nominal_orbit = (_spherical(one.position - PIVOT) for one in (pose, nominal))
    turned = (azimuth - nominal_orbit[0] + 180) % 360 - 180
    return turned, elevation - nominal_orbit[1], 100 * distance / nominal_orbit[2]


def _spherical(offset: np.ndarray) -> tuple[float, float, float]:
    """Azimuth and elevation, degrees, and distance, m."""
    x, y, z = offset.tolist()
    flat = math.hypot(x, y)
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, flat)), math.hypot(flat, z)
