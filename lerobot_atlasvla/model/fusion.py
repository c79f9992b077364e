"""Fuse views and language: ``late`` (VGGT or DA3 sees images only) or ``early`` (language goes through it).

Shape suffixes: B batch, V view, P patches per view, L language tokens, S context, C backbone width, D decoder width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .frozen import frozen_forward
from .geometry.backbone import GeometryBackbone
from .geometry.vggt import Aggregator
from .layers import CrossAttention
from .types import GeometryTokens, TokenGroup


class Fused(NamedTuple):
    """Output of a fusion, in decoder width D.

    Attributes:
        geometry_BVPD: Tokens of each view after the frame and global blocks; the patch tokens come last, row by row.
        language: Language tokens.
    """

    geometry_BVPD: Tensor
    language: TokenGroup


class GeometryProjector(nn.Module):
    """Camera and patch tokens of the chosen layers to decoder width.

    Args:
        num_layers: Aggregator layers read.
        backbone_dim: Width 2C of one aggregator output.
        dim: Decoder width D.
        views: Number of views V.
    """

    def __init__(self, num_layers: int, backbone_dim: int, dim: int, views: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(backbone_dim) for _ in range(num_layers))
        self.projections = nn.ModuleList(nn.Linear(backbone_dim, dim) for _ in range(num_layers))
        # VGGT tells only "first view" from "others"; a policy must tell the wrist from the scene camera.
        self.view_embed = nn.Parameter(torch.empty(1, views, 1, dim))
        nn.init.normal_(self.view_embed, std=0.02)

    def forward(self, layers: Sequence[Tensor], present: Sequence[int]) -> Tensor:
        """Map ``(B, V, 1 + patches, 2C)`` per layer to ``(B, V, 1 + patches, D)``, the sum over the layers.

        Args:
            layers: Camera and patch tokens of the aggregator's outputs.
            present: Place of each view among all the policy may have.
        """
        total = _of_views(self.view_embed, present)
        for tokens_BVPC, norm, projection in zip(layers, self.norms, self.projections, strict=True):
            total = total + projection(norm(tokens_BVPC.float()))
        return total


class VisionAdapter(nn.Module):
    """Tokens of a vision tower to the width of VGGT's blocks."""

    def __init__(self, vision_dim: int, backbone_dim: int):
        super().__init__()
        self.proj = nn.Linear(vision_dim, backbone_dim)
        self.norm = nn.LayerNorm(backbone_dim)

    def forward(self, vision_BVPC: Tensor) -> Tensor:
        """Tokens in any dtype, ``(B, V, P, vision_dim)`` to ``(B, V, P, C)``."""
        return self.norm(self.proj(vision_BVPC.float()))


class LateFusion(nn.Module):
    """The geometry backbone sees images only, as it was trained; language joins at the decoder.

    Args:
        vision_dim: Width of the vision tower's tokens; 0 = the backbone's own patch embedder, which needs no adapter.
        language_dim: Width of the language features.
        backbone_dim: Width C of the backbone's blocks.
        dim: Decoder width D.
        grid: Patches per (column, row).
        output_layers: Aggregator layers to read.
        views: Number of views V.
        points: Whether the backbone's points are read, too.
    """

    def __init__(
        self,
        *,
        vision_dim: int,
        language_dim: int,
        backbone_dim: int,
        dim: int,
        grid: tuple[int, int],
        output_layers: Sequence[int],
        views: int,
        points: bool = False,
    ):
        super().__init__()
        self.grid, self.output_layers, self.points = grid, output_layers, points
        self.vision_adapter = VisionAdapter(vision_dim, backbone_dim) if vision_dim else nn.Identity()
        self.geometry_projector = GeometryProjector(len(output_layers), 2 * backbone_dim, dim, views)
        self.language_projector = nn.Linear(language_dim, dim)

    def encode(self, vision_BVPC: Tensor, present: tuple[int, ...], aggregator: GeometryBackbone) -> GeometryTokens:
        """Run vision tokens through the geometry backbone.

        Args:
            vision_BVPC: Patch tokens of each view.
            present: Place of each view among all the policy may have.
            aggregator: The geometry backbone; VGGT's with camera and register tokens.
        """
        patches_BVPC = self.vision_adapter(vision_BVPC)
        return encode_late(patches_BVPC, present, aggregator, self.grid, self.output_layers, points=self.points)

    def forward(self, geometry: GeometryTokens, language: TokenGroup, aggregator: GeometryBackbone) -> Fused:
        """Project geometry and language tokens to decoder width.

        Args:
            geometry: What :meth:`encode` returned.
            language: Language features.
            aggregator: Not used: :meth:`encode` has run it.
        """
        return Fused(
            geometry_BVPD=self.geometry_projector(geometry.layers, geometry.present),
            language=TokenGroup(self.language_projector(language.tokens_BSD), language.mask_BS),
        )


def encode_late(
    patches_BVPC: Tensor,
    present: tuple[int, ...],
    aggregator: GeometryBackbone,
    grid: tuple[int, int],
    output_layers: Sequence[int],
    *,
    points: bool,
) -> GeometryTokens:
    """Run patch tokens through a geometry backbone that sees images only, and its heads where points are wanted.

    Args:
        patches_BVPC: Patch tokens of each view, of the backbone's width.
        present: Place of each view among all the policy may have.
        aggregator: The geometry backbone; VGGT's with camera and register tokens.
        grid: Patches per (column, row).
        output_layers: Layers to keep.
        points: Whether the scene's points are wanted.
    """
    read = aggregator.point_layers if points else ()
    wanted = sorted({*output_layers, *read})
    seen = None
    with frozen_forward(aggregator, patches_BVPC):
        layers, patch_start_idx = aggregator.attend(patches_BVPC, grid, wanted)
        by_layer = dict(zip(wanted, layers, strict=True))
        if points:
            seen = aggregator.points([by_layer[layer] for layer in read], grid, patches_BVPC)
    kept = tuple(_without_registers(by_layer[layer], patch_start_idx) for layer in output_layers)
    return GeometryTokens(kept, present, seen)


class BlindFusion(nn.Module):
    """No tokens of the views: one learned token stands where they would be. The control without images.

    Args:
        language_dim: Width of the language features.
        dim: Decoder width D.
    """

    def __init__(self, *, language_dim: int, dim: int):
        super().__init__()
        self.no_geometry = nn.Embedding(1, dim)
        self.language_projector = nn.Linear(language_dim, dim)

    def forward(self, geometry: GeometryTokens, language: TokenGroup, aggregator: GeometryBackbone | None) -> Fused:
        """Project language tokens to decoder width; no geometry token is read."""
        return Fused(
            geometry_BVPD=self.no_geometry.weight[None, None].expand(len(language.tokens_BSD), -1, -1, -1),
            language=TokenGroup(self.language_projector(language.tokens_BSD), language.mask_BS),
        )


class LandmarkFusion(BlindFusion):
    """Nothing of the views reaches the decoder but their landmarks: in the condition of the action queries.

    Args:
        language_dim: Width of the language features.
        dim: Decoder width D.
        grid: Patches per (column, row).
    """

    def __init__(self, *, language_dim: int, dim: int, grid: tuple[int, int]):
        super().__init__(language_dim=language_dim, dim=dim)
        self.grid = grid

    def encode(self, vision_BVPC: Tensor, present: tuple[int, ...], aggregator: GeometryBackbone) -> GeometryTokens:
        """Run patch tokens through the geometry backbone as far as its points need it."""
        return encode_late(vision_BVPC, present, aggregator, self.grid, (), points=True)


class EarlyFusion(nn.Module):
    """The original AtlasVLA recipe: language goes through VGGT's blocks beside the vision tokens.

    Vision and language are adapted to C, vision tokens attend to language, ``[vision | language]`` (no camera or
    register tokens) runs through the frame and global blocks, and the last one's 2C is projected to D.

    Args:
        vision_dim: Width of the vision tower's tokens.
        language_dim: Width of the language features.
        backbone_dim: Width C of VGGT's blocks.
        num_heads: Heads of the cross-attention.
        dim: Decoder width D.
        grid: Patches per (column, row).
        output_layers: Aggregator layers to read.
        views: Number of views V; every view's sequence carries the language tokens.
    """

    def __init__(
        self,
        *,
        vision_dim: int,
        language_dim: int,
        backbone_dim: int,
        num_heads: int,
        dim: int,
        grid: tuple[int, int],
        output_layers: Sequence[int],
        views: int,
    ):
        super().__init__()
        self.grid, self.output_layers = grid, output_layers
        width = 2 * backbone_dim * len(output_layers)
        self.vision_adapter = VisionAdapter(vision_dim, backbone_dim)
        self.language_adapter = nn.Sequential(
            nn.Linear(language_dim, backbone_dim), nn.LayerNorm(backbone_dim), nn.GELU()
        )
        self.attention_norm = nn.LayerNorm(backbone_dim)
        self.language_attention = CrossAttention(backbone_dim, num_heads)
        # Without camera tokens nothing else tells the views apart.
        self.view_embed = nn.Parameter(torch.empty(1, views, 1, backbone_dim))
        nn.init.normal_(self.view_embed, std=0.02)
        self.projector = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, backbone_dim),
            nn.GELU(),
            nn.Linear(backbone_dim, dim),
        )

    def encode(self, vision_BVPC: Tensor, present: tuple[int, ...], aggregator: Aggregator) -> GeometryTokens:
        """Hand on the patch tokens: the blocks read the instruction too, so they run in :meth:`forward`."""
        return GeometryTokens((vision_BVPC,), present)

    def forward(self, geometry: GeometryTokens, language: TokenGroup, aggregator: Aggregator) -> Fused:
        """Run vision and language tokens through VGGT together.

        Args:
            geometry: What :meth:`encode` returned.
            language: Language features.
            aggregator: Without camera and register tokens.
        """
        (vision_BVPC,) = geometry.layers
        views, patches = vision_BVPC.shape[1:3]
        instruction = TokenGroup(self.language_adapter(language.tokens_BSD), language.mask_BS)
        vision = (self.vision_adapter(vision_BVPC) + _of_views(self.view_embed, geometry.present)).flatten(1, 2)
        vision = vision + self.language_attention(self.attention_norm(vision), instruction)
        with frozen_forward(aggregator, vision, instruction.tokens_BSD):
            vision_BVPC = vision.unflatten(1, (views, patches))
            aggregated = aggregator.attend(vision_BVPC, self.grid, self.output_layers, instruction)
        fused_BVSD = self.projector(torch.cat(aggregated.layers, dim=-1).float())
        mask = None if instruction.mask_BS is None else instruction.mask_BS.repeat(1, views)
        return Fused(
            geometry_BVPD=fused_BVSD[:, :, :patches],
            language=TokenGroup(fused_BVSD[:, :, patches:].flatten(1, 2), mask),
        )


def _without_registers(tokens_BVPC: Tensor, patch_start_idx: int) -> Tensor:
    """The camera token, which comes first, and the patch tokens; nothing is copied where there are no registers."""
    if patch_start_idx == 1:
        return tokens_BVPC
    return torch.cat((tokens_BVPC[:, :, :1], tokens_BVPC[:, :, patch_start_idx:]), dim=2)


def _of_views(embed_1V1D: Tensor, present: Sequence[int]) -> Tensor:
    """The rows of the views that are there, which is nearly always all of them: then nothing is copied."""
    return embed_1V1D if len(present) == embed_1V1D.shape[1] else embed_1V1D[:, list(present)]
