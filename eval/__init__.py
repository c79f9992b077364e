"""Evaluation commands; they need the extra ``[eval]``, and ``[libero]`` to simulate."""

import importlib.util
import sys

if _missing := [name for name in ("matplotlib", "scipy", "tensorboard") if importlib.util.find_spec(name) is None]:
    sys.exit(f"eval needs {', '.join(_missing)}. Run `pip install 'lerobot_policy_atlasvla[eval]'`.")
