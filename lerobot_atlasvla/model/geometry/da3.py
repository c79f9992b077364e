"""Depth Anything 3's encoder: one DINOv2 whose later blocks attend within each view and across all views in turn.

Shape suffixes: B batch, V view, N images (B x V), P tokens per view (camera token, patches), C width, H and W in
pixels, h and w in patches.
Source: Lin et al., Depth Anything 3, arXiv:2511.10647; names and rules of ByteDance-Seed/Depth-Anything-3,
``model/dinov2/vision_transformer.py``. Differs: views keep their order (the reference's strategy ``first``), for a
policy's cameras have one; rotary tables are always float32; no blocks run after the last layer that is read.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from lerobot_atlasvla.model.layers import Block, rope_2d_tables
from lerobot_atlasvla.model.vision import ConvPatchEmbed, ImageNetScale, RememberedTable

from .backbone import (
    AggregatorOutput,
    FrameAndGlobal,
    GeometryBackbone,
    first_view_then_others,
    patch_positions,
    rope_tables,
)

PATCH_SIZE = 14
# The first block that has rotary positions, norms on q and k, and a camera token; before it, each view is a DINOv2.
ALTERNATING_FROM = 4
TABLE_SIDE = 37
# DINOv2 adds it to the grid before it divides by the table's side.
TABLE_OFFSET = 0.1
# Of the two norms of a block; those on q and k and the last one have PyTorch's default, 1e-5.
NORM_EPS = 1e-6


class DA3Encoder(GeometryBackbone):
    """Camera views in, geometry tokens out, in one vision transformer.

    Blocks 0 .. 3 are a plain DINOv2. Then the class token of every view gives way to a camera token, and odd blocks
    attend across all views, even ones within a view. A layer's output is the output of the last block within a view, as
    it is, beside that of the layer's own block, whose patch tokens are normalized.

    Args:
        embed_dim: Width C: 384 in DA3-SMALL, 768 in DA3-BASE.
        depth: Number of blocks, 12 in both.
        num_heads: Attention heads, 6 and 12; ``embed_dim / num_heads`` must be a multiple of 4.
    """

    patch_start_idx = 1

    def __init__(self, *, embed_dim: int = 384, depth: int = 12, num_heads: int = 6):
        super().__init__(patch_size=PATCH_SIZE, embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        self.scale = ImageNetScale()
        self.patch_embed = ConvPatchEmbed(PATCH_SIZE, embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        # Slot 0 belongs to the first view, which defines the world frame; slot 1 to all others.
        self.camera_token = nn.Parameter(torch.empty(1, 2, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + TABLE_SIDE**2, embed_dim))
        for parameter in (self.cls_token, self.camera_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, qk_norm=index >= ALTERNATING_FROM, layer_scale_init=1.0, norm_eps=NORM_EPS)
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self._positions = RememberedTable()

    def embed(self, images_BV3HW: Tensor) -> Tensor:
        """Return patch tokens ``(B, V, P, C)``, positions added, of RGB images in [0, 1]."""
        images_N3HW = self.scale(images_BV3HW.flatten(0, 1)).to(self.pos_embed.dtype)
        grid = (images_N3HW.shape[-2] // PATCH_SIZE, images_N3HW.shape[-1] // PATCH_SIZE)
        positions_1PC = self._positions.of(self.pos_embed, grid, lambda: self._interpolate(grid))
        return (self.patch_embed(images_N3HW) + positions_1PC).unflatten(0, images_BV3HW.shape[:2])

    def attend(
        self, patches_BVPC: Tensor, grid: tuple[int, int], output_layers: Sequence[int] | None = None
    ) -> AggregatorOutput:
        """Run the blocks over patch tokens.

        Args:
            patches_BVPC: What :meth:`embed` returned.
            grid: Patches per (column, row); their product is the number of patches.
            output_layers: As in :meth:`forward`.

        Returns:
            Layers of width P = camera token, patches. Below layer 4 the first token is still the class token.
        """
        wanted = self._check_layers(output_layers)
        batch, views = patches_BVPC.shape[:2]
        class_NC1 = (self.cls_token + self.pos_embed[:, :1]).expand(batch * views, -1, -1)
        camera_N1C = first_view_then_others(self.camera_token[:, :, None], batch, views)
        tokens = torch.cat((class_NC1, patches_BVPC.flatten(0, 1).to(class_NC1.dtype)), dim=1)
        per_view = tokens.shape[1]
        rope_within, rope_across = rope_tables(_make_tables, grid, views, self.head_dim, tokens.device)

        kept: dict[int, Tensor] = {}
        within = tokens
        for index in range(1 + max(wanted, default=-1)):
            block, alternating = self.blocks[index], index >= ALTERNATING_FROM
            if index == ALTERNATING_FROM:
                tokens = torch.cat((camera_N1C, tokens[:, 1:]), dim=1)
            if alternating and index % 2:
                tokens = self._run(block, tokens.unflatten(0, (batch, views)).flatten(1, 2), rope_across)
                tokens = tokens.unflatten(1, (views, per_view)).flatten(0, 1)
            else:
                within = tokens = self._run(block, tokens, rope_within if alternating else None)
            if index in wanted:
                normed = torch.cat((tokens[:, :1], self.norm(tokens[:, 1:])), dim=1)
                kept[index] = torch.cat((within, normed), dim=-1).unflatten(0, (batch, views))
        return AggregatorOutput([kept[layer] for layer in wanted], self.patch_start_idx)

    def block_names(self, layer: int) -> tuple[str, ...]:
        """Return the name of a layer's one block."""
        return (f"blocks.{layer}",)

    def geometry_blocks(self) -> list[nn.Module]:
        """Return the blocks that know of views: those from the fifth on."""
        return list(self.blocks[ALTERNATING_FROM:])

    def _interpolate(self, grid: tuple[int, int]) -> Tensor:
        """The patches' part of the position table for a grid, (1, P, C), as DINOv2 interpolates it."""
        table_1PC = self.pos_embed[:, 1:]
        if grid == (TABLE_SIDE, TABLE_SIDE):
            return table_1PC
        table_1Chw = table_1PC.float().transpose(1, 2).unflatten(2, (TABLE_SIDE, TABLE_SIDE))
        factors = [(side + TABLE_OFFSET) / TABLE_SIDE for side in grid]
        resized_1Chw = F.interpolate(table_1Chw, scale_factor=factors, mode="bicubic")
        return resized_1Chw.flatten(2).transpose(1, 2).to(table_1PC.dtype)


class DA3CameraDecoder(nn.Module):
    """Camera poses from the camera tokens of the last layer.

    Args:
        dim: Width 2C of one layer's output.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, camera_BVC: Tensor) -> Tensor:
        """Map camera tokens ``(B, V, 2C)`` to ``(B, V, 9)``.

        Returns:
            World-from-camera translation (3) and quaternion x y z w (4, not normalized), vertical and horizontal field
            of view (2, rad). VGGT encodes the inverse, camera-from-world.
        """
        features_BVC = self.backbone(camera_BVC)
        return torch.cat([head(features_BVC) for head in (self.fc_t, self.fc_qvec, self.fc_fov)], dim=-1)


def _make_tables(grid: tuple[int, int], views: int, head_dim: int, device: torch.device) -> FrameAndGlobal:
    """Rotary tables within a view and across views. Across, all patches have one position: (1, 1)."""
    positions_P2 = patch_positions(1, *grid, device=device)
    across_P2 = positions_P2.clamp(max=1).repeat(views, 1)
    return rope_2d_tables(positions_P2, head_dim), rope_2d_tables(across_P2, head_dim)
