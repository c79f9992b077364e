"""Discovery shim: LeRobot imports the module that is named like the distribution."""

import lerobot_atlasvla  # noqa: F401
