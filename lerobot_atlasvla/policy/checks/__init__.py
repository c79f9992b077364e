"""Checks of settings, features, statistics and values, each at the earliest point where it can be made."""
