"""Translate flags that were renamed, for one version."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

logger = logging.getLogger(__name__)

FORMER_FLAGS = {"look": "render_quality"}
"""Present names of flags by former name. Renamed 2026-11-26; version 0.2 refuses the former names."""

FLAGS_OF_SETTINGS = {"look": "render_quality"}
"""Flags by the key under which run folders and reports of all versions record them, where the two differ."""


def with_present_names(config: type[Any], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with former flags under their present names; logs one warning per renamed flag.

    Args:
        config: Dataclass of the command's flags; flags that it lacks are left as they are.
        arguments: As typed, ``--flag=value`` or ``--flag value``.
    """
    known = {f.name for f in fields(config)}
    renamed: dict[str, str] = {}
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        former = name.removeprefix("--")
        present = FORMER_FLAGS.get(former)
        if name.startswith("--") and present in known and former not in known:
            renamed[former] = present
            argument = f"--{present}{equals}{value}"
        found.append(argument)
    for former, present in renamed.items():
        logger.warning("--%s is now called --%s; version 0.2 refuses the old name.", former, present)
    return found


def flag_of(setting: str) -> str:
    """Return the flag, without dashes, that sets what a run folder records as ``setting``."""
    return FLAGS_OF_SETTINGS.get(setting, setting)
