"""Make a rollout depend on its initial state and seed only, not on how many rollouts the process has seen.

LIBERO appends to ``object_property_initializers`` at every hard reset (tasks with drawers and knobs have some) and
draws from NumPy's generator once per entry, so the cabinet and the stove of a later rollout stand up to 2 cm elsewhere.
With ``ATLASVLA_LIBERO_DETERMINISTIC_RESET=1`` every rollout is what the first one of a fresh process would be. Rollouts
with displaced objects (:mod:`~lerobot_atlasvla.libero.patches.displacement`) always are, since a displacement avoids
the fixtures.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from lerobot_atlasvla.libero.environment import read_switch
from lerobot_atlasvla.libero.patches.displacement import displace_cm_from_env

ENV_DETERMINISTIC_RESET = "ATLASVLA_LIBERO_DETERMINISTIC_RESET"


def hook_environments(module: ModuleType) -> None:
    """Drop, before every reset of LeRobot's LIBERO environments, what earlier ones have appended.

    Args:
        module: ``lerobot.envs.libero``, freshly imported.
    """
    import wrapt

    def ensure(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        fresh = env._env is None
        wrapped(*args, **kwargs)
        if fresh:
            env._atlasvla_initializers = len(env._env.env.object_property_initializers)

    def reset(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        if read_switch(ENV_DETERMINISTIC_RESET) or displace_cm_from_env():
            env._ensure_env()
            del env._env.env.object_property_initializers[env._atlasvla_initializers :]
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "LiberoEnv._ensure_env", ensure)
    wrapt.wrap_function_wrapper(module, "LiberoEnv.reset", reset)
