"""Geometry backbones, which see all views at once: VGGT's aggregator and heads, and Depth Anything 3."""
