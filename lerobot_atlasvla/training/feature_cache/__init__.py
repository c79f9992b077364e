"""Features of a dataset's frames from frozen VGGT or DA3, computed once (``atlasvla-cache``) and read in training."""
