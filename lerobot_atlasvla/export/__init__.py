"""``atlasvla-export``: a policy as one file that runs with NumPy and onnxruntime, without LeRobot and PyTorch."""
