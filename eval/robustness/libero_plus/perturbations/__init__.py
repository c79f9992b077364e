"""Perturbations of LIBERO-Plus: of the camera, of the image and of the arm."""
