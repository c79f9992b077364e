"""Work out from the name of a policy's image key which camera of LIBERO it means."""

from collections.abc import Mapping, Sequence

from eval.common.errors import EvalError
from lerobot_atlasvla.libero.tasks import LEROBOT_NAMES
from lerobot_atlasvla.libero.tasks import SCENE_OBSERVATION as SCENE
from lerobot_atlasvla.libero.tasks import WRIST_OBSERVATION as WRIST
from lerobot_atlasvla.policy.pretrained_geometry import WRIST_WORDS

CAMERAS = (SCENE, WRIST)
PREFIX = "observation.images."

# AtlasVLA, SmolVLA and others reserve keys like observation.images.empty_camera_0 for cameras that data may lack.
_EMPTY = "empty_camera"


def camera_mapping(image_keys: Sequence[str], override: Mapping[str, str] | None = None) -> dict[str, str]:
    """Map LIBERO's cameras to a policy's views, as LeRobot's ``camera_name_mapping``.

    Args:
        image_keys: The policy's image features, such as ``observation.images.image``.
        override: Use this mapping instead, after checking it.

    Returns:
        Camera to name of the view without its prefix. Only the cameras that are needed, the scene camera first; none
        for a blind policy, which has no image keys.

    Raises:
        EvalError: If the keys leave it open which is which, there are more than two, or ``override`` names an unknown
            camera or not exactly the policy's views.
    """
    keys = [key for key in image_keys if _EMPTY not in key]
    foreign = [key for key in keys if not key.startswith(PREFIX)]
    if foreign or (image_keys and not keys):
        raise EvalError(
            f"LIBERO's images arrive as {PREFIX}NAME, but the policy's image features are "
            f"{_listed(image_keys)}; such a policy cannot be rolled out in LIBERO."
        )
    names = [key.removeprefix(PREFIX) for key in keys]
    if override is not None:
        return _checked(override, names)
    if set(names) == set(LEROBOT_NAMES):
        return dict(zip(CAMERAS, LEROBOT_NAMES, strict=True))
    wrist = [name for name in names if any(word in name.lower() for word in WRIST_WORDS)]
    scene = [name for name in names if name not in wrist]
    if len(wrist) > 1 or len(scene) > 1:
        raise EvalError(
            f"It is not clear which of the policy's views {_listed(keys)} is LIBERO's scene camera and which the wrist "
            f'camera. Say so with --cameras=\'{{"{SCENE}": "NAME", "{WRIST}": "NAME"}}\', each NAME one of '
            f"{_listed(names)}."
        )
    return {camera: found[0] for camera, found in ((SCENE, scene), (WRIST, wrist)) if found}


def _checked(override: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    unknown = [camera for camera in override if camera not in CAMERAS]
    if unknown:
        raise EvalError(
            f"--cameras names the camera {_listed(unknown)}, which LIBERO does not offer; allowed: {_listed(CAMERAS)}."
        )
    if sorted(override.values()) != sorted(names):
        raise EvalError(
            f"--cameras maps to the views {_listed(list(override.values()))}, but the policy needs exactly "
            f"{_listed(names)}, each from one of {_listed(CAMERAS)}."
        )
    return {camera: override[camera] for camera in CAMERAS if camera in override}


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
