"""Perturbations of LIBERO-Plus: of the camera, of the picture and of the arm."""
