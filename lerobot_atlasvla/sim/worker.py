"""Preloaded in LeRobot's environment workers, which start from a fresh interpreter that knows no plugin."""

from lerobot_atlasvla.sim.setup import install_hooks

install_hooks()
