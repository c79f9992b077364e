"""Take pictures only when the policy will look at them, and only with the cameras that it looks through.

A policy that executes ``n_action_steps`` actions of a chunk looks at the pictures of steps 0, ``n_action_steps``,
2 ``n_action_steps``, ... only, yet LIBERO renders every step, and those spent settling as well. With
``ATLASVLA_LIBERO_RENDER_EVERY=n_action_steps`` LeRobot's LIBERO environment renders those pictures alone; in between it
repeats the last one. Physics, states and the pictures that are taken are the same, bit for bit.

The number must be the policy's own: with a larger one it would act on old pictures. Videos that ``lerobot-eval`` writes
show the same picture several times.

``ATLASVLA_LIBERO_RENDER_CAMERAS`` names the cameras that render, such as ``robot0_eye_in_hand``, or ``none``; the
others show black. Unset, all of them do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

ENV_RENDER_EVERY = "ATLASVLA_LIBERO_RENDER_EVERY"
ENV_RENDER_CAMERAS = "ATLASVLA_LIBERO_RENDER_CAMERAS"
CAMERAS = ("agentview", "robot0_eye_in_hand")
NO_CAMERA = "none"

# What a simulation showed last, by camera, height and width.
_pictures: WeakKeyDictionary[Any, dict[tuple[str, int, int], np.ndarray]] = WeakKeyDictionary()


class _Shutter(threading.local):
    """Whether this thread's simulation takes pictures at the moment."""

    open = True
    all_cameras = False
    """Whether every camera renders, whatever the environment says."""
    settling = 0
    """Control steps until the shutter opens again, while an episode begins."""


_shutter = _Shutter()


def render_every() -> int:
    """Steps from one picture to the next; 1, every step, unless ``ATLASVLA_LIBERO_RENDER_EVERY`` says otherwise.

    Raises:
        ValueError: If it is not a positive integer.
    """
    word = os.environ.get(ENV_RENDER_EVERY) or "1"
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise ValueError(f"{ENV_RENDER_EVERY}={word!r} is not a number of steps; allowed: 1, 2, 3, ...")
    return int(word)


def render_cameras() -> tuple[str, ...]:
    """Cameras that render: all, unless ``ATLASVLA_LIBERO_RENDER_CAMERAS`` names some, or none.

    Raises:
        ValueError: If it names another one.
    """
    words = os.environ.get(ENV_RENDER_CAMERAS)
    if not words:
        return CAMERAS
    names = () if words == NO_CAMERA else tuple(words.split(","))
    if unknown := set(names) - set(CAMERAS):
        raise ValueError(
            f"{ENV_RENDER_CAMERAS}={words!r} names {', '.join(sorted(unknown))}; allowed: {', '.join(CAMERAS)} with "
            f"commas between them, or {NO_CAMERA}"
        )
    return names


def fresh_picture(env: Any, camera: str, size: int) -> np.ndarray:
    """Picture of this moment, whatever the shutter says.

    Args:
        env: LeRobot's ``LiberoEnv``, after a reset.
        camera: Camera of the simulator, such as ``agentview``.
        size: Height and width, pixels.

    Returns:
        (size, size, 3) uint8, upright, as LeRobot's LIBERO processor turns the observations.
    """
    with _exposure(taken=True, all_cameras=True):
        picture = env._env.sim.render(camera_name=camera, width=size, height=size)
    return np.ascontiguousarray(picture[::-1, ::-1])


@contextmanager
def _exposure(*, taken: bool, all_cameras: bool = False) -> Iterator[None]:
    before = _shutter.open, _shutter.all_cameras
    _shutter.open, _shutter.all_cameras = taken, all_cameras
    try:
        yield
    finally:
        _shutter.open, _shutter.all_cameras = before


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
        # The first picture the policy sees is taken in the last step of settling; if there is none, on the way there.
        _shutter.settling = env.num_steps_wait
        try:
            with _exposure(taken=env.num_steps_wait == 0):
                return wrapped(*args, **kwargs)
        finally:
            _shutter.settling = 0

    def step(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        env._atlasvla_steps += 1
        with _exposure(taken=env._atlasvla_steps % render_every() == 0):
            return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "LiberoEnv.reset", reset)
    wrapt.wrap_function_wrapper(module, "LiberoEnv.step", step)


def hook_control(module: ModuleType) -> None:
    """Open the shutter in the last step of settling.

    Args:
        module: ``libero.libero.envs.env_wrapper``, freshly imported.
    """
    import wrapt

    def step(wrapped: Any, _env: Any, args: Any, kwargs: Any) -> Any:
        if _shutter.settling == 0:
            return wrapped(*args, **kwargs)
        _shutter.settling -= 1
        with _exposure(taken=_shutter.settling == 0):
            return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "ControlEnv.step", step)


def hook_rendering(module: ModuleType) -> None:
    """Repeat the last picture while the shutter is closed.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def render(wrapped: Any, simulation: Any, args: Any, kwargs: Any) -> Any:
        if args or kwargs.get("depth") or kwargs.get("segmentation"):
            return wrapped(*args, **kwargs)  # not how robosuite's camera sensors ask for a picture
        height, width = kwargs["height"], kwargs["width"]
        pictures = _pictures.setdefault(simulation, {})
        key = (kwargs["camera_name"], height, width)
        if _shutter.open and (_shutter.all_cameras or key[0] not in CAMERAS or key[0] in render_cameras()):
            pictures[key] = wrapped(*args, **kwargs)
        return pictures.setdefault(key, np.zeros((height, width, 3), np.uint8)).copy()

    wrapt.wrap_function_wrapper(module, "MjSim.render", render)
