"""Pretraining of a small geometry backbone on simulated views with depth and known cameras."""
