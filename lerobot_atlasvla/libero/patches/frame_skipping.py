"""Render only the frames that the policy uses, and only with the cameras that it uses.

A policy that executes ``n_action_steps`` actions of a chunk uses the frames of steps 0, ``n_action_steps``,
2 ``n_action_steps``, ... only, yet LIBERO renders every step, and those spent settling as well. With
``ATLASVLA_LIBERO_RENDER_EVERY=n_action_steps`` LeRobot's LIBERO environment renders those frames alone; in between it
repeats the last one. Physics, states and the frames that are rendered are the same, bit for bit.

The number must be the policy's own: with a larger one it would act on old frames. Videos that ``lerobot-eval`` writes
show the same frame several times.

``ATLASVLA_LIBERO_RENDER_CAMERAS`` names the cameras that render, such as ``robot0_eye_in_hand``, or ``none``; the
others show black. Unset, all of them do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lerobot_atlasvla.libero.environment import read_variable
from lerobot_atlasvla.libero.tasks import CAMERAS

ENV_RENDER_EVERY = "ATLASVLA_LIBERO_RENDER_EVERY"
ENV_RENDER_CAMERAS = "ATLASVLA_LIBERO_RENDER_CAMERAS"
NO_CAMERA = "none"

# The last frames of a simulation, by camera, height and width.
_last_frames: WeakKeyDictionary[Any, dict[tuple[str, int, int], np.ndarray]] = WeakKeyDictionary()


class _Rendering(threading.local):
    """State of this thread's simulation.

    Attributes:
        on: Whether it renders at the moment.
        all_cameras: Whether every camera renders, whatever the environment variable says.
        settling: Control steps until it renders again, while an episode begins.
    """

    on = True
    all_cameras = False
    settling = 0


_rendering = _Rendering()


def render_every() -> int:
    """Return the steps from one rendered frame to the next: ``ATLASVLA_LIBERO_RENDER_EVERY``, or 1, every step.

    Raises:
        ValueError: If it is not a positive integer.
    """
    word = read_variable(ENV_RENDER_EVERY, "1")
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise ValueError(f"{ENV_RENDER_EVERY}={word!r} is not a number of steps; allowed: 1, 2, 3, ...")
    return int(word)


def render_cameras() -> tuple[str, ...]:
    """Return the cameras that render: all, unless ``ATLASVLA_LIBERO_RENDER_CAMERAS`` names some, or none.

    Raises:
        ValueError: If it names another one.
    """
    words = read_variable(ENV_RENDER_CAMERAS, "")
    if not words:
        return CAMERAS
    names = () if words == NO_CAMERA else tuple(words.split(","))
    if unknown := set(names) - set(CAMERAS):
        raise ValueError(
            f"{ENV_RENDER_CAMERAS}={words!r} names {', '.join(sorted(unknown))}; allowed: {', '.join(CAMERAS)} with "
            f"commas between them, or {NO_CAMERA}"
        )
    return names


def fresh_image(env: Any, camera: str, size: int) -> np.ndarray:
    """Render an image of this moment, whatever frames are skipped.

    Args:
        env: LeRobot's ``LiberoEnv``, after a reset.
        camera: One of the simulator's cameras, such as ``agentview``.
        size: Height and width, pixels.

    Returns:
        (size, size, 3) uint8, upright, as LeRobot's LIBERO processor turns the observations.
    """
    with _render(on=True, all_cameras=True):
        image = env._env.sim.render(camera_name=camera, width=size, height=size)
    return np.ascontiguousarray(image[::-1, ::-1])


@contextmanager
def _render(*, on: bool, all_cameras: bool = False) -> Iterator[None]:
    before = _rendering.on, _rendering.all_cameras
    _rendering.on, _rendering.all_cameras = on, all_cameras
    try:
        yield
    finally:
        _rendering.on, _rendering.all_cameras = before


def hook_environments(module: ModuleType) -> None:
    """Count the steps of LeRobot's LIBERO environments from now on.

    Args:
        module: ``lerobot.envs.libero``, freshly imported.
    """
    import wrapt

    def reset(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        env._atlasvla_steps = 0
        if render_every() == 1:
            return wrapped(*args, **kwargs)
        # The first frame the policy sees is rendered in the last step of settling; if there is none, on the way there.
        _rendering.settling = env.num_steps_wait
        try:
            with _render(on=env.num_steps_wait == 0):
                return wrapped(*args, **kwargs)
        finally:
            _rendering.settling = 0

    def step(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        env._atlasvla_steps += 1
        with _render(on=env._atlasvla_steps % render_every() == 0):
            return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "LiberoEnv.reset", reset)
    wrapt.wrap_function_wrapper(module, "LiberoEnv.step", step)


def hook_control(module: ModuleType) -> None:
    """Render again in the last step of settling.

    Args:
        module: ``libero.libero.envs.env_wrapper``, freshly imported.
    """
    import wrapt

    def step(wrapped: Any, _env: Any, args: Any, kwargs: Any) -> Any:
        if _rendering.settling == 0:
            return wrapped(*args, **kwargs)
        _rendering.settling -= 1
        with _render(on=_rendering.settling == 0):
            return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "ControlEnv.step", step)


def hook_rendering(module: ModuleType) -> None:
    """Repeat the last frame instead of rendering a skipped one.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def render(wrapped: Any, simulation: Any, args: Any, kwargs: Any) -> Any:
        if args or kwargs.get("depth") or kwargs.get("segmentation"):
            return wrapped(*args, **kwargs)  # not how robosuite's camera sensors ask for an image
        height, width = kwargs["height"], kwargs["width"]
        frames = _last_frames.setdefault(simulation, {})
        key = (kwargs["camera_name"], height, width)
        if _rendering.on and (_rendering.all_cameras or key[0] not in CAMERAS or key[0] in render_cameras()):
            frames[key] = wrapped(*args, **kwargs)
        return frames.setdefault(key, np.zeros((height, width, 3), np.uint8)).copy()

    wrapt.wrap_function_wrapper(module, "MjSim.render", render)
