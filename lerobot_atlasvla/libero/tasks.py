"""Names and numbers of LIBERO's benchmark that everything else refers to: suites, cameras, timing, image keys."""

import re

SPATIAL = "libero_spatial"
"""The suite that the stand-in scene draws."""
SUITES = (SPATIAL, "libero_object", "libero_goal", "libero_10")
"""The suites that policies are evaluated on."""
SUITE_TASKS = dict.fromkeys(SUITES, 10) | {"libero_90": 90}
"""Number of tasks of each suite."""

SCENE_CAMERA = "agentview"
WRIST_CAMERA = "robot0_eye_in_hand"
CAMERAS = (SCENE_CAMERA, WRIST_CAMERA)
"""Cameras of the simulator that LeRobot's LIBERO environment renders."""
SCENE_OBSERVATION = f"{SCENE_CAMERA}_image"
WRIST_OBSERVATION = f"{WRIST_CAMERA}_image"
"""Keys of their images in the simulator's observations, and in LeRobot's ``camera_name_mapping``."""

IMAGE_KEY = "observation.images.image"
WRIST_IMAGE_KEY = "observation.images.wrist_image"
"""Keys of the same images in the published datasets."""
CAMERA_NAME_MAPPING = {SCENE_OBSERVATION: "image", WRIST_OBSERVATION: "wrist_image"}
"""LeRobot's ``--env.camera_name_mapping`` that leads to these keys."""
LEROBOT_NAMES = ("image", "image2")
"""What LeRobot's environment calls scene and wrist camera without it."""

CONTROL_FREQ_HZ = 20
SETTLE_STEPS = 10
"""No-op steps after a reset, as LeRobot's ``LiberoEnv`` takes them: objects drop onto the table."""

LONGEST_EPISODE = 1000
"""Steps after a reset, settling included, after which LIBERO's environments end an episode; one more is an error."""

SUITE_MAX_STEPS = {SPATIAL: 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Control steps after which an episode has failed, by suite, as LeRobot's ``TASK_SUITE_MAX_STEPS``."""


def task_from_name(name: str) -> str:
    """Read LIBERO's ``task.language`` from the name of a demonstration or bddl file, without its folder and ending."""
    return re.sub(r"^[A-Z_]+_SCENE\d+_", "", name).replace("_", " ").strip()
