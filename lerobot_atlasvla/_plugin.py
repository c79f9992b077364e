"""Runs at import: whatever must happen before LIBERO is imported. Light, and silent unless it has to act."""

from .sim.setup import install_hooks

install_hooks()
