"""Measurements on a trained policy: what its actions depend on."""
