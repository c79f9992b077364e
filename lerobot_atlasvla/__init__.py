"""AtlasVLA: a vision-language-action policy for LeRobot that sees through a geometry transformer.

Importing this package registers the policy type ``atlasvla`` and the processing steps that its checkpoints name, and
prepares LIBERO's first import; the network is imported only when a public name below is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .configuration_atlasvla import AtlasVLAConfig
from .policy.pipelines import end_effector_step, tokenizer_step  # noqa: F401
from .utils import libero_hook  # noqa: F401

if TYPE_CHECKING:
    from .modeling_atlasvla import AtlasVLAPolicy
    from .processor_atlasvla import make_atlasvla_pre_post_processors

_LAZY = {
    "AtlasVLAPolicy": "modeling_atlasvla",
    "make_atlasvla_pre_post_processors": "processor_atlasvla",
}

__all__ = ["AtlasVLAConfig", "AtlasVLAPolicy", "make_atlasvla_pre_post_processors"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
