"""A robot for ``--robot.discover_packages_path=tests.six_joint_arm``: LeRobot looks for its class in this package."""

from .arm import CAMERAS, FPS, JOINTS, SixJointArm, SixJointArmConfig, record

__all__ = ["CAMERAS", "FPS", "JOINTS", "SixJointArm", "SixJointArmConfig", "record"]
