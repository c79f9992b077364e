"""What frozen VGGT makes of a dataset's frames, computed once (``atlasvla-cache``) and read in training."""
