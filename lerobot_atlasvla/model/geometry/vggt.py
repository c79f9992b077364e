"""VGGT's aggregator: alternating attention within each view (frame) and across all views (global).

Shape suffixes: B batch, V view, P tokens per view (camera, registers, patches), C width, H and W in pixels.
Source: Wang et al., VGGT, CVPR 2025, arXiv:2503.11651, sec. 3.2; names and rules of facebookresearch/vggt
``models/aggregator.py``. Differs: only the requested layers are kept; rotary tables are always float32; gradient
checkpointing is a switch of its own and not hidden in ``train()``; foreign tokens may take part (:meth:`attend`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lerobot_atlasvla.model.layers import Block, RopeTables, rope_2d_tables
from lerobot_atlasvla.model.types import TokenGroup
from lerobot_atlasvla.model.vision import ImageNetScale, build_patch_embed

from .backbone import (
    AggregatorOutput,
    FrameAndGlobal,
    GeometryBackbone,
    first_view_then_others,
    patch_positions,
    rope_tables,
)
from .point_heads import PointHeads, point_map
from .points import PointMap
from .record import HeadSizes
from .vggt_points import VGGTPointHeads


class Aggregator(GeometryBackbone):
    """Camera views in, geometry tokens out.

    Args:
        patch_embed: One of ``sizes.PATCH_EMBEDDERS``; VGGT-1B uses ``dinov2_vitl14_reg``. ``None``: patch tokens come
            from elsewhere, only :meth:`attend` can be called.
        img_size: Side in pixels that sizes DINOv2's position table.
        patch_size: Pixels per patch side.
        embed_dim: Width C.
        depth: Number of frame blocks, and of global blocks.
        num_heads: Attention heads; ``embed_dim / num_heads`` must be a multiple of 4.
        num_register_tokens: Register tokens per view.
        grid: Patch grid, needed by ``conv_stem`` only.
        layer_scale_init: Start value of the layer scale (0.01 in VGGT).
        has_blocks: Without frame and global blocks (an ablation), every layer's output is its input, twice.
        special_tokens: Whether camera and register tokens are put before the patches, as in VGGT.
        heads: Sizes of the heads that make points of the last layer (:meth:`points`); None without.
        own_heads: Whether VGGT's own camera and depth heads are there, which :meth:`points` then needs.
    """

    size_flags = "--policy.image_size, --policy.vggt_patch_size"

    def __init__(
        self,
        *,
        patch_embed: str | None = "dinov2_vitl14_reg",
        img_size: int = 518,
        patch_size: int = 14,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        num_register_tokens: int = 4,
        grid: tuple[int, int] | None = None,
        layer_scale_init: float = 0.01,
        has_blocks: bool = True,
        special_tokens: bool = True,
        heads: HeadSizes | None = None,
        own_heads: bool = False,
    ):
        super().__init__(patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        self.special_tokens = special_tokens
        self.patch_start_idx = 1 + num_register_tokens if special_tokens else 0
        self.scale = ImageNetScale()
        if patch_embed is not None:
            self.patch_embed = build_patch_embed(
                patch_embed, patch_size=patch_size, dim=embed_dim, img_size=img_size, grid=grid
            )
        if special_tokens:
            # Slot 0 belongs to the first view, which defines the world frame; slot 1 to all others.
            self.camera_token = nn.Parameter(torch.empty(1, 2, 1, embed_dim))
            self.register_token = nn.Parameter(torch.empty(1, 2, num_register_tokens, embed_dim))
            nn.init.normal_(self.camera_token, std=1e-6)
            nn.init.normal_(self.register_token, std=1e-6)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(embed_dim, num_heads, layer_scale_init=layer_scale_init) if has_blocks else Passage()
                for _ in range(depth)
            )

        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        self.point_heads = None if heads is None else PointHeads(2 * embed_dim, heads)
        self.own_heads = VGGTPointHeads(embed_dim, depth, patch_size) if own_heads else None
        if heads is not None:
            self.point_layers, self.point_frame = (depth - 1,), heads.frame
            self.descriptor_dim, self.cells_per_patch = heads.descriptor_dim, heads.cells_per_side**2
        elif self.own_heads is not None:
            self.point_layers, self.descriptor_dim = self.own_heads.layers, embed_dim

    def block_names(self, layer: int) -> tuple[str, ...]:
        """Return the names of a pair's two blocks."""
        return f"frame_blocks.{layer}", f"global_blocks.{layer}"

    def geometry_blocks(self) -> list[nn.Module]:
        """Return all frame blocks, then all global ones."""
        return [*self.frame_blocks, *self.global_blocks]

    def points(self, layers: Sequence[Tensor], grid: tuple[int, int], patches_BVPC: Tensor | None = None) -> PointMap:
        """Return the points of heads made by ``atlasvla-pretrain``, or of VGGT's own.

        As in :meth:`GeometryBackbone.points`. For the former with or without register tokens: the camera token comes
        first, the patch tokens last.
        """
        if self.point_heads is not None:
            return point_map(self.point_heads, layers, grid)
        if self.own_heads is not None and patches_BVPC is not None:
            return self.own_heads.points(layers, grid, patches_BVPC, self.patch_start_idx)
        return super().points(layers, grid)

    def embed(self, images_BV3HW: Tensor) -> Tensor:
        """Patch tokens ``(B, V, P, C)`` of RGB images in [0, 1]."""
        images_N3HW = self.scale(images_BV3HW.flatten(0, 1)).to(next(self.patch_embed.parameters()).dtype)
        return self.patch_embed(images_N3HW).unflatten(0, images_BV3HW.shape[:2])

    def attend(
        self,
        patches_BVPC: Tensor,
        grid: tuple[int, int],
        output_layers: Sequence[int] | None = None,
        language: TokenGroup | None = None,
    ) -> AggregatorOutput:
        """Alternate frame and global attention over patch tokens.

        Args:
            patches_BVPC: Patch tokens of each view, row-major.
            grid: Patches per (column, row); their product is the number of patches.
            output_layers: As in :meth:`forward`.
            language: Tokens of an instruction, of width C, that every view's sequence ends with. They sit at position
                (0, 0), as camera and register tokens do; padding is never attended to.

        Returns:
            Layers of width P = specials, patches, language tokens.
        """
        wanted = self._check_layers(output_layers)
        batch, views = patches_BVPC.shape[:2]
        parts = [patches_BVPC.flatten(0, 1)]
        if self.special_tokens:
            specials = (self.camera_token, self.register_token)
            parts[:0] = [first_view_then_others(token, batch, views) for token in specials]
        if language is not None:
            parts.append(language.tokens_BSD.repeat_interleave(views, dim=0))
        dtype = next((parameter.dtype for parameter in self.parameters()), patches_BVPC.dtype)
        tokens = torch.cat([part.to(dtype) for part in parts], dim=1)
        per_view = tokens.shape[1]
        mask_frame = mask_global = None
        if language is not None and language.mask_BS is not None:
            seen = language.mask_BS.new_ones(batch, per_view - language.mask_BS.shape[1])
            mask_BP = torch.cat((seen, language.mask_BS), dim=1)
            mask_frame, mask_global = mask_BP.repeat_interleave(views, dim=0), mask_BP.repeat(1, views)
        layout = TokenLayout(self.patch_start_idx, *grid, 0 if language is None else language.tokens_BSD.shape[1])
        rope_frame, rope_global = rope_tables(_make_tables, layout, views, self.head_dim, tokens.device)

        kept: dict[int, Tensor] = {}
        for index in range(1 + max(wanted, default=-1)):
            within = self._run(self.frame_blocks[index], tokens, rope_frame, mask_frame)
            tokens = within.unflatten(0, (batch, views)).flatten(1, 2)
            tokens = self._run(self.global_blocks[index], tokens, rope_global, mask_global)
            if index in wanted:
                halves = [half.reshape(batch, views, per_view, -1) for half in (within, tokens)]
                kept[index] = torch.cat(halves, dim=-1)
            tokens = tokens.unflatten(1, (views, per_view)).flatten(0, 1)
        return AggregatorOutput([kept[layer] for layer in wanted], self.patch_start_idx)


class Passage(nn.Module):
    """Stands where a block would be and changes nothing."""

    def forward(self, tokens: Tensor, rope: RopeTables, mask: Tensor | None) -> Tensor:
        """Return the tokens as they came."""
        return tokens


class TokenLayout(NamedTuple):
    """The tokens of one view, in this order: camera and registers, patches by rows, tokens of another origin."""

    specials: int
    rows: int
    columns: int
    extras: int


def _make_tables(layout: TokenLayout, views: int, head_dim: int, device: torch.device) -> FrameAndGlobal:
    """Rotary tables for frame and for global attention."""
    positions_P2 = patch_positions(layout.specials, layout.rows, layout.columns, layout.extras, device=device)
    # Positions do not depend on the view: all views share them in global attention too.
    return rope_2d_tables(positions_P2, head_dim), rope_2d_tables(positions_P2.repeat(views, 1), head_dim)
