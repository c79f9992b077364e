"""A video of a rollout, drawn afterward from the simulator's states: rollouts that nobody films cost nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ, SCENE_CAMERA

if TYPE_CHECKING:
    from lerobot_atlasvla.inspection.attention import ChunkAttention

_BAR = 16
"""Height of the caption, pixels."""
_COLORS = {True: (30, 130, 50), False: (170, 40, 40)}


def video_name(suite: str, task_id: int, seed: int, init_state: int, success: bool) -> str:
    """Name a video, for example ``libero_spatial-00-seed1000-003-failure.mp4``."""
    return f"{suite}-{task_id:02d}-seed{seed}-{init_state:03d}-{'success' if success else 'failure'}.mp4"


def scene_images(env: Any, states: Sequence[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Render what the scene camera would have shown, one image per state.

    Args:
        env: LeRobot's ``LiberoEnv``, not reset since the states were taken: they say where things stand that move, and
            a reset may place cabinets elsewhere. It is left in the last state.
        states: Flattened simulator states.
        size: Height and width, pixels.

    Yields:
        (size, size, 3) uint8, upright.
    """
    from lerobot_atlasvla.libero.patches.frame_skipping import fresh_image

    sim = env._env.sim
    for state in states:
        sim.set_state_from_flattened(state)
        sim.forward()
        env._env.env.set_visualization()  # whether a stove is shown as on is no part of the state
        yield fresh_image(env, SCENE_CAMERA, size)


def with_attention(frame: np.ndarray, chunk: "ChunkAttention", view: str) -> np.ndarray:
    """Return the frame, and beside it the same with the attention of the chunk that is being executed.

    Args:
        frame: (size, size, 3) uint8.
        chunk: Attention over all views.
        view: Image key of the view that the frame shows.

    Returns:
        (size, 2 size, 3) uint8.
    """
    from lerobot_atlasvla.inspection.attention import draw_attention

    attention_HW = chunk.attention_VHW[chunk.views.index(view)]
    return np.concatenate([frame, draw_attention(frame, attention_HW)], axis=1)


def captioned(frame: np.ndarray, text: str, success: bool) -> np.ndarray:
    """Return the frame with a line below it, green for a success and red for a failure.

    Args:
        frame: (height, width, 3) uint8.
        text: Cut off where the frame ends.
        success: Of the whole rollout.

    Returns:
        (height + 16, width, 3) uint8, made even on both sides as video codecs want it.
    """
    from PIL import Image, ImageDraw

    height, width = frame.shape[:2]
    canvas = Image.new("RGB", (width + width % 2, height + height % 2 + _BAR), _COLORS[success])
    canvas.paste(Image.fromarray(frame), (0, 0))
    ImageDraw.Draw(canvas).text((3, height + height % 2 + 2), text, fill=(255, 255, 255))
    return np.asarray(canvas)


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write an MP4 file at the speed of the robot, whole or not at all.

    Args:
        path: The file; its folder is made.
        frames: (height, width, 3) uint8 with even sides.
    """
    from lerobot.utils.io_utils import write_video as write

    with replacing(path) as scratch:
        write(scratch, list(frames), CONTROL_FREQ_HZ)
