"""Registers the one import hook that prepares LIBERO when it is first imported; does nothing else.

Where LIBERO or the extra ``[libero]`` is not installed there is no hook. ``lerobot.envs.libero`` has one of its own
because it is patched when its import, which imports LIBERO, is complete.
"""

import importlib.util

if importlib.util.find_spec("libero") and importlib.util.find_spec("wrapt"):
    import wrapt

    wrapt.register_post_import_hook("lerobot_atlasvla.libero.setup:on_package", "libero")
    wrapt.register_post_import_hook("lerobot_atlasvla.libero.setup:on_lerobot_environments", "lerobot.envs.libero")
