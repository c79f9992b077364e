"""Compute how large a network becomes from its configuration, before it is built. Light: imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .architecture import DINOV2_SIZES

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

_FLOAT32_BYTES = 4
# Memory limits of a container, cgroup version 2 and 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_BYTE_TOKENS = 257


def check_fits_memory(config: AtlasVLAConfig, *, without: Collection[str] = ()) -> None:
    """Refuse a network whose fresh weights are larger than the available memory, before they fill it.

    Args:
        config: The configuration, features filled in.
        without: Backbones that are built without memory.

    Raises:
        ValueError: Naming the largest part, both sizes and the flags that size the part.
    """
    parts = parameter_counts(config, without=without)
    needed, there = sum(parts.values()) * _FLOAT32_BYTES, available_memory()
    if needed > there:
        part = max(parts, key=lambda name: parts[name])
        raise ValueError(
            f"The network's weights would take {needed / 1e9:,.1f} GB, and {there / 1e9:,.1f} GB of memory "
            f"are available; the largest part is the {part.replace('_', ' ')}, {parts[part] / 1e9:,.2f} billion "
            f"parameters ({_FLAGS[part]})."
        )


_FLAGS = {
    "geometry_backbone": (
        "--policy.vggt_embed_dim, --policy.vggt_depth, --policy.vggt_patch_size, --policy.da3_embed_dim, "
        "--policy.da3_depth"
    ),
    "vision_tower": "--policy.vision_patch_dim, --policy.vision_patch_size",
    "language_model": "--policy.language_hidden_size, --policy.language_num_layers",
    "fusion": "--policy.decoder_hidden_size, --policy.vggt_embed_dim, --policy.vggt_output_layers",
    "condition": (
        "--policy.condition_hidden_size, --policy.summary_keypoints, --policy.summary_map_channels, "
        "--policy.image_size, --policy.chunk_size, --policy.num_action_queries"
    ),
    "decoder": "--policy.decoder_hidden_size, --policy.decoder_num_layers",
    "action_head": "--policy.decoder_hidden_size, --policy.flow_num_layers",
}


def parameter_counts(config: AtlasVLAConfig, *, without: Collection[str] = ()) -> dict[str, int]:
    """Return the number of parameters by part, within a few percent: matrices and tables, no biases and norms.

    Args:
        config: The configuration, features filled in.
        without: Backbones that are not counted.
    """
    views, dim, width = len(config.view_keys), config.decoder_hidden_size, config.geometry_dim
    patches = config.image_size[0] // config.patch_size * (config.image_size[1] // config.patch_size)
    early = config.fusion == "early"
    counts = dict.fromkeys(_FLAGS, 0)
    if views:
        counts["fusion"] = views * dim + (
            8 * width**2 + 2 * width * dim if early else 2 * width * dim * len(config.geometry_layers)
        )
        if config.geometry_backbone not in without:
            counts["geometry_backbone"] = 12 * width**2 * _geometry_blocks(config)
            if config.vision == "vggt":
                counts["geometry_backbone"] += _patch_embed(config, patches)
            if config.reads_landmarks:
                # Four blocks of the camera head, twice as wide; the depth head's convolutions are half of one.
                counts["geometry_backbone"] += (12 * 4 + 6 + 2) * (2 * width) ** 2
            elif config.vision == "da3":
                counts["geometry_backbone"] += width * (3 * config.patch_size**2 + 37**2)
        if config.vision == "patch":
            counts["vision_tower"] = config.vision_patch_dim * (3 * config.patch_size**2 + patches)
            counts["fusion"] += config.vision_patch_dim * width
        elif config.vision == "dinov2" and "vision_tower" not in without:
            tower = config.backbone_architectures["vision_tower"]
            size = tower.get("hidden_size", 768)
            counts["vision_tower"] = 12 * tower.get("num_hidden_layers", 12) * size**2
    hidden = config.language_hidden_size
    if config.language_init == "random" and "language" not in without:
        counts["language_model"] = hidden * _BYTE_TOKENS + 12 * config.language_num_layers * hidden**2
    counts["fusion"] += hidden * dim if config.language_init == "random" else 0
    queries = config.num_action_queries or config.chunk_size
    if config.query_conditioning != "none":
        channels = config.summary_keypoints + config.summary_map_channels
        views_width = views * (2 * config.summary_keypoints + patches * config.summary_map_channels)
        if config.reads_landmarks:
            channels, views_width = 0, views * 4 * config.summary_keypoints
        condition = config.state_dim + dim + views_width
        counts["condition"] = dim * channels + config.condition_hidden_size * (condition + queries * dim)
    counts["decoder"] = 20 * config.decoder_num_layers * dim**2 + queries * dim + config.state_dim * dim
    counts["action_head"] = config.action_dim * dim
    if config.head == "flow":
        counts["action_head"] += (18 * config.flow_num_layers + 2) * dim**2
    return counts


def _geometry_blocks(config: AtlasVLAConfig) -> int:
    """Return the number of transformer blocks of the geometry backbone, its patch embedder's not counted."""
    if config.geometry_backbone == "da3":
        return config.backbone_architectures["da3"]["depth"]
    return 0 if config.vggt_blocks == "removed" else 2 * config.vggt_depth


def _patch_embed(config: AtlasVLAConfig, patches: int) -> int:
    """Return the parameters of VGGT's patch embedder."""
    width, name = config.vggt_embed_dim, config.vggt_patch_embed
    if name in DINOV2_SIZES:
        layers = DINOV2_SIZES[name][1]
        return 12 * layers * width**2 + width * (3 * config.vggt_patch_size**2 + 37**2)
    if name == "conv":
        return width * 3 * config.vggt_patch_size**2
    # The last of the stem's convolutions, each half as wide as the next, and the positions.
    return 7 * width**2 + width * patches


def available_memory() -> int:
    """Return the bytes of memory that are available: of the computer, or of its container, which may have fewer."""
    # Only now: configurations are read where nothing is built. It comes with accelerate.
    import psutil

    available = psutil.virtual_memory().available
    for file in _LIMITS:
        try:
            available = min(available, int(file.read_text()))
        except (OSError, ValueError):
            continue  # not there, or "max"
    return available
