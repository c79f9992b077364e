"""Features of a dataset's frames from frozen VGGT, computed once (``atlasvla-cache``) and read in training."""
