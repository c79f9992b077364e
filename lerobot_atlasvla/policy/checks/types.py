"""Every value of a configuration is of its setting's type; and the error that all its checks raise."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

from draccus.utils import DecodingError

from lerobot_atlasvla.utils.kinds import described, is_of

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig


class ConfigError(DecodingError):
    """A setting can't work; the message names it, its value, what is allowed and the flag.

    Not a ValueError: draccus answers those with "Couldn't instantiate class AtlasVLAConfig" and drops their message;
    its own errors it lets through to LeRobot's command line.
    """

    def __init__(self, message: str):
        super().__init__((), message)


def shown(value: Any) -> str:
    """Return a value for a message, which no value may make endless."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def check_types(config: AtlasVLAConfig) -> None:
    """Check that every value is of its setting's type, before anything is computed with it.

    Raises:
        ConfigError: For the first one that is not.
    """
    for name, kind in _types(type(config)).items():
        if not is_of(getattr(config, name, None), kind):
            raise ConfigError(
                f"{name} must be {described(kind)}, got {shown(getattr(config, name))} (--policy.{name})."
            )


@lru_cache
def _types(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings)
    # rtc_config is LeRobot's to check (rtc.py), once it is imported.
    return {name: hints[name] for name in settings.__dataclass_fields__ if name != "rtc_config"}
