"""What to build: the sizes and choices that make one AtlasVLA, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .decoder import DecoderSpec


@dataclass(frozen=True)
class GeometrySpec:
    """Sizes of the VGGT aggregator and what is read from it.

    Attributes:
        patch_embed: One of ``vision.PATCH_EMBEDDERS``; used where the vision is VGGT's own.
        patch_size: Pixels per patch side of that embedder.
        embed_dim: Width C.
        depth: Frame/global pairs.
        num_heads: Attention heads.
        num_register_tokens: Register tokens per view.
        layer_scale_init: Start value of the layer scale: 0.01 in VGGT, larger to train a shallow one from scratch.
        has_blocks: Whether there are frame and global blocks at all; without them patch tokens pass unchanged.
        output_layers: Pairs whose output (width 2C) is read.
    """

    patch_embed: str
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    num_register_tokens: int
    layer_scale_init: float
    has_blocks: bool
    output_layers: tuple[int, ...]


@dataclass(frozen=True)
class VisionSpec:
    """Where patch tokens come from.

    Attributes:
        kind: ``vggt`` (its own embedder), ``patch`` (a convolution from scratch) or ``dinov2``.
        patch_size: Pixels per patch side.
        patch_dim: Width of ``patch`` tokens.
        architecture: transformers' configuration of the DINOv2 tower.
    """

    kind: str
    patch_size: int
    patch_dim: int
    architecture: Mapping[str, Any]


@dataclass(frozen=True)
class LanguageSpec:
    """The language model.

    Attributes:
        architecture: transformers' configuration of the model.
        cache_size: Most instructions whose features are remembered while it is frozen.
        on_cpu: Whether it stays in host memory.
    """

    architecture: Mapping[str, Any]
    cache_size: int
    on_cpu: bool


@dataclass(frozen=True)
class SummarySpec:
    """Sizes of the visual summary that conditions the action queries.

    Attributes:
        keypoints: Keypoints per view.
        map_channels: Channels of the flattened map.
    """

    keypoints: int
    map_channels: int


@dataclass(frozen=True)
class HeadSpec:
    """The action head.

    Attributes:
        kind: ``l1`` (direct regression) or ``flow`` (flow matching).
        flow_num_layers: Blocks of the flow head's denoiser.
    """

    kind: str
    flow_num_layers: int


@dataclass(frozen=True)
class AtlasSpec:
    """One AtlasVLA.

    Attributes:
        geometry: The VGGT aggregator.
        vision: Where its patch tokens come from.
        language: The instruction encoder.
        fusion: ``late``: VGGT sees images only; ``early``: language goes through its blocks.
        decoder: The action decoder.
        condition_queries: Whether state, language and the visual summary condition the action queries.
        summary: Sizes of that summary.
        head: The action head.
        image_size: (H, W) of every view in pixels.
        views: Number of views V; 0 = a blind policy, the control for what images are worth.
        state_dim: Size N of the state; 0 = the state is not used.
        action_dim: Size A of an action.
        chunk_size: Actions T per forward pass.
    """

    geometry: GeometrySpec
    vision: VisionSpec
    language: LanguageSpec
    fusion: str
    decoder: DecoderSpec
    condition_queries: bool
    summary: SummarySpec
    head: HeadSpec
    image_size: tuple[int, int]
    views: int
    state_dim: int
    action_dim: int
    chunk_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per (column, row)."""
        return self.image_size[0] // self.vision.patch_size, self.image_size[1] // self.vision.patch_size
