"""Key of a feature cache: everything that a frame's features depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Self

import torch

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.weights import backbones

# 1 held patch tokens from before the frame and global blocks as well (up to commit b6cd926).
FORMAT = 2
FLAG = "--policy.feature_cache"
WITHOUT = f"train without it (leave out {FLAG}; when resuming, add {FLAG}=null)"


class FeatureCacheError(ValueError):
    """A feature cache can't be used or built; the message says why and what to change."""


@dataclass(frozen=True)
class CacheKey:
    """Everything that the content of a feature cache depends on; written beside it as ``cache.json``.

    Attributes:
        dataset: ``repo_id`` of the dataset.
        frames: Its number of frames; one row each.
        views: The cameras, in the policy's order.
        image_size: (H, W) in pixels to which they were resized.
        augmentation: The settings under which each copy was augmented.
        copies: Copies of every frame.
        weights: Fingerprint of the geometry backbone's weights, in the dtype in which they ran.
        output_layers: The layers read.
        dtype: Of the features.
        layer: Shape of one layer's tokens, (V, 1 + P, 2C).
        points: Views, cells of a view and descriptor width of the points that landmarks are read from; ``None`` without
            landmarks.
        scales: Frame of those points and fingerprint of what the heads predict offsets from, which is not among the
            weights; ``None`` without, and for heads of VGGT's own.
        format: Version of the files.
    """

    dataset: str
    frames: int
    views: tuple[str, ...]
    image_size: tuple[int, int]
    augmentation: dict[str, float]
    copies: int
    weights: str
    output_layers: tuple[int, ...]
    dtype: str
    layer: tuple[int, int, int]
    points: tuple[int, int, int] | None = None
    scales: str | None = None
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        config: AtlasVLAConfig,
        *,
        dataset: str,
        frames: int,
        weights: str,
        points: tuple[int, int, int] | None = None,
        scales: str | None = None,
    ) -> Self:
        """Make the key of a policy's cache of one dataset; arguments as the attributes of those names."""
        patches = prod(side // config.patch_size for side in config.image_size)
        return cls(
            dataset=dataset,
            frames=frames,
            views=tuple(config.view_keys),
            image_size=tuple(config.image_size),
            augmentation=augmentation(config),
            copies=config.feature_cache_copies,
            weights=weights,
            output_layers=config.geometry_layers,
            dtype=str(backbones.part_dtype(config, config.geometry_backbone)).removeprefix("torch."),
            layer=(len(config.view_keys), 1 + patches, 2 * config.geometry_dim),
            points=points,
            scales=scales,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read the key that :meth:`to_json` wrote."""
        lists = ("views", "image_size", "output_layers", "layer", "points")
        # What the fingerprint was called while VGGT was the only backbone (up to commit eb51224).
        names = {"vggt": "weights"}
        values: dict[str, Any] = {
            names.get(name, name): tuple(value) if name in lists and value is not None else value
            for name, value in content.items()
        }
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, by attribute."""
        return asdict(self)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of the features."""
        return getattr(torch, self.dtype)

    @property
    def layer_bytes(self) -> int:
        """Return the size in bytes of the layers of one copy of one frame."""
        return len(self.output_layers) * prod(self.layer) * self.torch_dtype.itemsize

    @property
    def point_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the parts of one frame's points, float32, in the order of a ``PointMap``."""
        if self.points is None:
            return ()
        views, cells, width = self.points
        return (views, cells, 3), (views, cells), (views, cells, width), (views, 3, 4)

    @property
    def copy_bytes(self) -> int:
        """Return the size in bytes of one copy of one frame: its layers, then its points."""
        return self.layer_bytes + sum(map(prod, self.point_shapes)) * torch.float32.itemsize

    def differences(self, other: CacheKey) -> list[str]:
        """List what differs in ``other``: ``name: this, not that``."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name}: {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name]]


def augmentation(config: AtlasVLAConfig) -> dict[str, float]:
    """Return the settings that change images in training; empty if none of them does."""
    names = ("random_shift", "random_crop", "color_jitter")
    return {name: getattr(config, name) for name in names if getattr(config, name)}
