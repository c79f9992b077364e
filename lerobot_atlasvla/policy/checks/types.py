"""Every value of a configuration is of its setting's type; and the error that all its checks raise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from draccus.utils import DecodingError
from lerobot.configs.types import NormalizationMode

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
        if not _is_of(getattr(config, name, None), kind):
            raise ConfigError(
                f"{name} must be {_described(kind)}, got {shown(getattr(config, name))} (--policy.{name})."
            )


@lru_cache
def _types(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings)
    # rtc_config is LeRobot's to check (rtc.py), once it is imported.
    return {name: hints[name] for name in settings.__dataclass_fields__ if name != "rtc_config"}


_DESCRIPTIONS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _described(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        count = "any number of" if Ellipsis in get_args(kind) else len(get_args(kind))
        return f"{count} values, each {_described(get_args(kind)[0])}"
    words = (words for known, words in _DESCRIPTIONS.items() if isinstance(kind, type) and issubclass(kind, known))
    return next(words, str(kind).replace("typing.", ""))


def _is_of(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_is_of(value, one) for one in args)
    if origin in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        kinds = args if origin is tuple and Ellipsis not in args else args[:1] * len(value)
        return len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if origin is dict:
        return isinstance(value, Mapping) and all(_is_of(k, args[0]) and _is_of(v, args[1]) for k, v in value.items())
    for number, numbers in ((int, Integral), (float, Real)):
        if issubclass(kind, number) and kind is not bool:
            return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is NormalizationMode:  # its values too, as in JSON
        return isinstance(value, str)
    return isinstance(value, str | Path if kind is Path else kind)
