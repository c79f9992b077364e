"""Names and numbers of LIBERO's benchmark that everything else refers to: suites, cameras, timing, image keys."""

SUITE_TASKS = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Number of tasks of each suite."""
SPATIAL = "libero_spatial"
"""The suite that the stand-in scene draws and the scripted expert knows."""

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

CONTROL_FREQ_HZ = 20
SETTLE_STEPS = 10
"""No-op steps after a reset, as LeRobot's ``LiberoEnv`` takes them: objects drop onto the table."""

LONGEST_EPISODE = 1000
"""Steps after a reset, settling included, after which LIBERO's environments end an episode; one more is an error."""

SUITE_MAX_STEPS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Control steps after which an episode has failed, by suite, as LeRobot's ``TASK_SUITE_MAX_STEPS``."""
