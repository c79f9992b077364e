"""Reads the environment variables of the simulator, under their present and their former names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

ENV_CACHE = "ATLASVLA_CACHE"

#: Former names, by present name. Renamed 2026-11-26; version 0.2 drops them.
FORMER_NAMES = {
    "ATLASVLA_LIBERO_RENDER_QUALITY": "ATLASVLA_LIBERO_LOOK",
    "ATLASVLA_LIBERO_DETERMINISTIC_RESET": "ATLASVLA_LIBERO_REPEATABLE",
}


def read_variable(name: str, default: str) -> str:
    """Return the value of an environment variable, ``default`` if it is unset or empty.

    A value that is set under the variable's former name only is moved to the present one, with a warning: processes
    started from now on find it there and do not warn again.
    """
    former = FORMER_NAMES.get(name)
    if former and not os.environ.get(name) and os.environ.get(former):
        os.environ[name] = os.environ.pop(former)
        logger.warning("The environment variable %s is now called %s; version 0.2 ignores the old name", former, name)
    return os.environ.get(name) or default


def read_switch(name: str) -> bool:
    """Return whether an environment variable is 1; unset, it is off.

    Raises:
        ValueError: For any other word than 0 and 1.
    """
    word = read_variable(name, "0")
    if word not in ("0", "1"):
        raise ValueError(f"{name}={word!r} is not a switch; allowed: 0, 1")
    return word == "1"


def cache_root() -> Path:
    """Return the folder for generated files: ``ATLASVLA_CACHE``, or ``atlasvla`` under the user's cache folder."""
    if chosen := os.environ.get(ENV_CACHE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "atlasvla"
