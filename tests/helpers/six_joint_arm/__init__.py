"""A robot for ``--robot.discover_packages_path=tests.helpers.six_joint_arm``, in which LeRobot looks for its class."""

from .arm import CAMERAS, FPS, JOINTS, SixJointArm, SixJointArmConfig, record

__all__ = ["CAMERAS", "FPS", "JOINTS", "SixJointArm", "SixJointArmConfig", "record"]
