"""Render what the scene camera shows at the points of a grid, in a process of its own."""

import contextlib
import io
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from eval.rollout.policy.camera_keys import SCENE
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.libero.demonstrations.episode import start_worker
from lerobot_atlasvla.libero.patches.camera_pose import ENV_CAMERA_SHIFT, CameraShift
from lerobot_atlasvla.libero.patches.deterministic_reset import ENV_DETERMINISTIC_RESET
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA

SIZE = 128
"""Side of the images, pixels."""


def take_views(suite: str, task_id: int, render_quality: str, wanted: Mapping[Path, CameraShift]) -> None:
    """Render those images that are not there yet, of the task's first fixed initial state.

    Args:
        suite: LIBERO suite.
        task_id: Task of the suite.
        render_quality: How the scene is rendered, one of ``RENDER_QUALITIES``.
        wanted: PNG file to write, and where the camera is then.

    Raises:
        BrokenProcessPool: If the process died without a Python error.
        OSError: If a file cannot be written.
    """
    missing = {file: shift for file, shift in wanted.items() if not file.exists()}
    if not missing:
        return
    # The simulator is set by environment variables and keeps a GL context: neither shall outlive the images.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=start_worker) as pool:
        pool.submit(_take, suite, task_id, render_quality, missing).result()


def _take(suite: str, task_id: int, render_quality: str, wanted: Mapping[Path, CameraShift]) -> None:
    from lerobot_atlasvla.libero.setup import prepare_libero

    os.environ.update({ENV_RENDER_QUALITY: render_quality, ENV_DETERMINISTIC_RESET: "1"})
    prepare_libero()
    from lerobot.envs.configs import LiberoEnv
    from lerobot.envs.factory import make_env
    from PIL import Image

    from lerobot_atlasvla.libero.patches.frame_skipping import fresh_image

    config = LiberoEnv(
        task=suite, task_ids=[task_id], camera_name=SCENE, observation_height=SIZE, observation_width=SIZE
    )
    for file, shift in wanted.items():
        os.environ[ENV_CAMERA_SHIFT] = shift.to_env()
        with contextlib.redirect_stdout(io.StringIO()):  # LeRobot and LIBERO announce every environment
            vector: Any = make_env(config, n_envs=1)[suite][task_id]
        try:
            vector.reset(seed=[0])
            image = fresh_image(vector.envs[0].unwrapped, SCENE_CAMERA, SIZE)
        finally:
            vector.close()
        with replacing(file) as scratch:
            Image.fromarray(image).save(scratch, format="png")
