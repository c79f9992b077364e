"""Move and turn the scene camera, to test a policy on a view that it was not trained on.

``ATLASVLA_LIBERO_CAMERA_SHIFT`` holds the shift as JSON, such as ``{"right_cm": 5, "pan_deg": -10}``, and applies to
every simulation built while it is set. The wrist camera stays where it is.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_atlasvla.libero.environment import read_variable
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

ENV_CAMERA_SHIFT = "ATLASVLA_LIBERO_CAMERA_SHIFT"
PIVOT = np.array([0.0, 0.0, 0.8])
"""What LIBERO-Plus moves the camera around, (3,), m in the world, whatever the scene's table is."""


@dataclass(frozen=True)
class CameraShift:
    """Displacement of the scene camera, as someone standing behind it would describe it.

    It is moved around :data:`PIVOT` first, as LIBERO-Plus moves it, then along its own axes, and turned in the end.

    LIBERO's images, turned by 180 degrees from OpenGL's bottom-up rows, are mirrored: what is to the camera's right
    is on their left. So a camera that moves to its right shows the scene moving to the right.

    Attributes:
        right_cm: Moved sideways, cm; positive to its right.
        up_cm: Moved along its own vertical, cm; positive up.
        forward_cm: Moved along the line of sight, cm; positive toward the scene.
        pan_deg: Turned about the vertical of the world, degrees; positive looks to its right.
        tilt_deg: Turned about its own horizontal, degrees; positive looks up.
        roll_deg: Turned about the line of sight, degrees; positive turns the camera clockwise.
        azimuth_deg: Moved around the scene, degrees; positive counterclockwise from above.
        elevation_deg: Moved over the scene, degrees; positive higher.
        distance_percent: Moved away from the scene, percent of its distance; positive farther.

    Raises:
        ValueError: If a value is not a finite number, or the distance shrinks by 100 percent or more.
    """

    right_cm: float = 0.0
    up_cm: float = 0.0
    forward_cm: float = 0.0
    pan_deg: float = 0.0
    tilt_deg: float = 0.0
    roll_deg: float = 0.0
    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    distance_percent: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r} is not a finite number")
        if self.distance_percent <= -100:
            raise ValueError(f"distance_percent={self.distance_percent:g} is not above -100")

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def to_env(self) -> str:
        """Return the value of ``ATLASVLA_LIBERO_CAMERA_SHIFT`` for this shift."""
        return json.dumps(asdict(self))

    @classmethod
    def from_env(cls) -> CameraShift:
        """Read ``ATLASVLA_LIBERO_CAMERA_SHIFT``; no shift if it is not set.

        Raises:
            ValueError: If it is not a JSON object of known names and finite numbers.
        """
        text = read_variable(ENV_CAMERA_SHIFT, "{}")
        allowed = [field.name for field in fields(cls)]
        try:
            values = json.loads(text)
            unknown = sorted(set(values) - set(allowed))
            if unknown:
                raise ValueError(f"unknown: {', '.join(unknown)}")
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{ENV_CAMERA_SHIFT}={text!r} is not a camera shift ({error}); allowed: a JSON object with numbers for "
                + ", ".join(allowed)
            ) from error


def move_camera(model: Any, shift: CameraShift) -> None:
    """Displace the scene camera of a model, if it has one.

    Args:
        model: A ``mujoco.MjModel`` whose scene camera hangs on a body that is not turned against the world.
        shift: The displacement.
    """
    from mujoco import mj_name2id, mjtObj  # pyrefly: ignore[missing-module-attribute]
    from scipy.spatial.transform import Rotation

    camera = mj_name2id(model, mjtObj.mjOBJ_CAMERA, SCENE_CAMERA)
    if camera < 0:
        return
    rotation = Rotation.from_quat(model.cam_quat[camera], scalar_first=True)
    origin, body = np.zeros(3), model.cam_bodyid[camera]
    while body:
        origin += model.body_pos[body]
        body = model.body_parentid[body]
    position, turned = shifted(origin + model.cam_pos[camera], rotation, shift)
    model.cam_pos[camera] = position - origin
    model.cam_quat[camera] = turned.as_quat(scalar_first=True)


def shifted(position: np.ndarray, rotation: Rotation, shift: CameraShift) -> tuple[np.ndarray, Rotation]:
    """Move and turn a camera.

    Args:
        position: (3,), m, in the world.
        rotation: From the camera's axes (MuJoCo's: x right, y up, the line of sight along -z) to the world's.
        shift: The displacement.

    Returns:
        Position and rotation afterward.
    """
    from scipy.spatial.transform import Rotation

    # Up is from x toward z: against the right hand about y.
    raised = Rotation.from_rotvec([0, -shift.elevation_deg, 0], degrees=True)
    around = Rotation.from_rotvec([0, 0, shift.azimuth_deg], degrees=True)
    position = PIVOT + around.apply(raised.apply(position - PIVOT)) * (1 + shift.distance_percent / 100)
    rotation = around * raised * rotation
    moved = rotation.apply(np.array([shift.right_cm, shift.up_cm, -shift.forward_cm]) / 100)
    pan = Rotation.from_rotvec([0, 0, -shift.pan_deg], degrees=True)
    tilt = Rotation.from_rotvec([shift.tilt_deg, 0, 0], degrees=True)
    roll = Rotation.from_rotvec([0, 0, -shift.roll_deg], degrees=True)
    return position + moved, pan * rotation * tilt * roll


def hook_simulations(module: ModuleType) -> None:
    """Displace the scene camera of every simulation that robosuite builds from now on.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def build(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        if shift := CameraShift.from_env():
            move_camera(kwargs["model"] if "model" in kwargs else args[0], shift)
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "MjSim.__init__", build)
