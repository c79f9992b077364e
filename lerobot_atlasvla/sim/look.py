"""How LIBERO's pictures are rendered: its own look, or a cheaper one for machines without a GPU.

The look must be the same for demonstrations and rollouts; it is part of what reports say about the simulator.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

ENV_LOOK = "ATLASVLA_LIBERO_LOOK"
LOOKS = ("default", "fast", "plain")
"""LIBERO's own; without reflections and shadows; without antialiasing either."""


def chosen_look() -> str:
    """Look asked for by ``ATLASVLA_LIBERO_LOOK``; ``default`` is LIBERO's own.

    Raises:
        ValueError: For any other word than those in :data:`LOOKS`.
    """
    look = os.environ.get(ENV_LOOK) or "default"
    if look not in LOOKS:
        raise ValueError(f"{ENV_LOOK}={look!r} is not a look; allowed: {', '.join(LOOKS)}")
    return look


def simplify(model: Any, look: str) -> None:
    """Switch off what costs most in software rendering.

    Args:
        model: A ``mujoco.MjModel``, changed in place. Physics is untouched.
        look: One of :data:`LOOKS`. ``fast`` has no reflections (a second pass over the scene) and no shadows, ``plain``
            no antialiasing either.
    """
    if look == "default":
        return
    model.mat_reflectance[:] = 0.0
    model.light_castshadow[:] = 0
    if look == "plain":
        model.vis.quality.offsamples = 0


def hook_simulations(module: ModuleType) -> None:
    """Apply the chosen look to every simulation that robosuite builds from now on.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def build(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        simplify(kwargs["model"] if "model" in kwargs else args[0], chosen_look())
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "MjSim.__init__", build)
