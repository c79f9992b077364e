"""Tensor code only: nothing under this package knows LeRobot's keys."""
