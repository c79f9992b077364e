"""Render LIBERO in its own quality, or in a cheaper one for machines without a GPU.

The quality must be the same for demonstrations and rollouts; it is part of what reports say about the simulator.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from lerobot_atlasvla.libero.environment import read_variable

ENV_RENDER_QUALITY = "ATLASVLA_LIBERO_RENDER_QUALITY"
RENDER_QUALITIES = ("default", "fast", "plain")
"""LIBERO's own; without reflections and shadows; without antialiasing either."""


def chosen_render_quality() -> str:
    """Return the quality that ``ATLASVLA_LIBERO_RENDER_QUALITY`` asks for; ``default`` is LIBERO's own.

    Raises:
        ValueError: For any other word than those in :data:`RENDER_QUALITIES`.
    """
    quality = read_variable(ENV_RENDER_QUALITY, "default")
    check_render_quality(quality, ENV_RENDER_QUALITY)
    return quality


def check_render_quality(quality: str, name: str) -> None:
    """Refuse a word that is no render quality.

    Args:
        quality: What was asked for.
        name: Flag or variable that asks for it, for the message.

    Raises:
        ValueError: For any other word than those in :data:`RENDER_QUALITIES`.
    """
    if quality not in RENDER_QUALITIES:
        raise ValueError(f"{name}={quality} is not a render quality; allowed: {', '.join(RENDER_QUALITIES)}")


def simplify(model: Any, quality: str) -> None:
    """Switch off what costs most in software rendering.

    Args:
        model: A ``mujoco.MjModel``, changed in place. Physics is untouched.
        quality: One of :data:`RENDER_QUALITIES`. ``fast`` has no reflections (a second pass over the scene) and no
            shadows, ``plain`` no antialiasing either.
    """
    if quality == "default":
        return
    model.mat_reflectance[:] = 0.0
    model.light_castshadow[:] = 0
    if quality == "plain":
        model.vis.quality.offsamples = 0


def hook_simulations(module: ModuleType) -> None:
    """Apply the chosen quality to every simulation that robosuite builds from now on.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def build(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        simplify(kwargs["model"] if "model" in kwargs else args[0], chosen_render_quality())
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "MjSim.__init__", build)
