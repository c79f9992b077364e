"""Serve a policy to robots whose computer is too small for it: ``server`` beside the GPU, ``client`` on the robot."""
