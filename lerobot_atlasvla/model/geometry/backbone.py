"""Define the interface of a geometry backbone: views in, geometry tokens of some layers out.

There are two, VGGT's aggregator (:mod:`.vggt`) and DA3's encoder (:mod:`.da3`); whatever differs between them is in
their files. Shape suffixes: B batch, V view, P tokens per view, R tokens, C width, H and W in pixels.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lerobot_atlasvla.model.layers import RopeTables
from lerobot_atlasvla.model.vision import check_image_size

from .points import PointMap


class AggregatorOutput(NamedTuple):
    """Output of a geometry backbone.

    Attributes:
        layers: One ``(B, V, P, 2C)`` tensor per requested layer: the half of attention within a view, then that of
            attention across all views.
        patch_start_idx: Index of the first patch token in P (a camera token comes first, registers may follow it).
    """

    layers: list[Tensor]
    patch_start_idx: int


FrameAndGlobal = tuple[RopeTables, RopeTables]
"""Rotary tables for attention within a view and across views."""


class GeometryBackbone(nn.Module):
    """Camera views in, geometry tokens out.

    Args:
        patch_size: Pixels per patch side.
        embed_dim: Width C.
        depth: Number of layers that can be asked for.
        num_heads: Attention heads.

    Attributes:
        gradient_checkpointing: Recompute each block in the backward pass instead of storing its activations.
        point_layers: Layers that :meth:`points` reads; empty for a backbone that gives no points.
        descriptor_dim: Width of the descriptors of its points; 0 without any.
        cells_per_patch: Cells of a view's points for each of its patches.
        point_frame: ``first_view`` where points and poses are in the first view's camera frame, or ``base`` where the
            backbone has learned to see the robot's base.
    """

    # Flags that an image size which does not divide into patches names.
    size_flags = "--policy.image_size"
    patch_start_idx: int
    patch_embed: nn.Module
    point_layers: tuple[int, ...] = ()
    descriptor_dim: int = 0
    cells_per_patch: int = 1
    point_frame: str = "first_view"

    def __init__(self, *, patch_size: int, embed_dim: int, depth: int, num_heads: int):
        super().__init__()
        self.patch_size, self.embed_dim, self.depth = patch_size, embed_dim, depth
        self.head_dim = embed_dim // num_heads
        self.gradient_checkpointing = False

    def forward(self, images_BV3HW: Tensor, output_layers: Sequence[int] | None = None) -> AggregatorOutput:
        """Encode the views of each sample jointly.

        Args:
            images_BV3HW: RGB in [0, 1], H and W multiples of ``patch_size``. ImageNet scaling happens here.
            output_layers: Indices of the layers to return, 0 .. depth - 1; ``None`` returns all.

        Raises:
            ValueError: If C != 3, or H or W is no multiple of ``patch_size``, or a layer does not exist.
        """
        _, _, channels, height, width = images_BV3HW.shape
        if channels != 3:
            raise ValueError(f"Expected RGB images (B, V, 3, H, W), got shape {tuple(images_BV3HW.shape)}.")
        check_image_size(height, width, self.patch_size, self.size_flags)
        wanted = self._check_layers(output_layers)
        grid = (height // self.patch_size, width // self.patch_size)
        return self.attend(self.embed(images_BV3HW), grid, wanted)

    @abstractmethod
    def embed(self, images_BV3HW: Tensor) -> Tensor:
        """Return patch tokens ``(B, V, P, C)`` of RGB images in [0, 1]."""

    @abstractmethod
    def attend(
        self, patches_BVPC: Tensor, grid: tuple[int, int], output_layers: Sequence[int] | None = None
    ) -> AggregatorOutput:
        """Alternate attention within and across views over patch tokens.

        Args:
            patches_BVPC: Patch tokens of each view, row-major.
            grid: Patches per (column, row); their product is the number of patches.
            output_layers: As in :meth:`forward`.
        """

    def points(self, layers: Sequence[Tensor], grid: tuple[int, int], patches_BVPC: Tensor | None = None) -> PointMap:
        """Return the scene's points at the cells of every view.

        Args:
            layers: What :meth:`attend` returned for ``point_layers``.
            grid: Patches per (column, row).
            patches_BVPC: What it was given, for backbones that describe cells by their patch tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} has no heads that give points.")

    @abstractmethod
    def block_names(self, layer: int) -> tuple[str, ...]:
        """Return the names, inside this module, of the blocks that end in a layer's output."""

    @abstractmethod
    def geometry_blocks(self) -> list[nn.Module]:
        """Return the blocks among which attention within and across views alternates."""

    def _check_layers(self, output_layers: Sequence[int] | None) -> Sequence[int]:
        wanted = range(self.depth) if output_layers is None else output_layers
        if any(not 0 <= layer < self.depth for layer in wanted):
            raise ValueError(f"output_layers {list(wanted)} must lie in 0 .. {self.depth - 1}.")
        return wanted

    def _run(self, block: nn.Module, tokens: Tensor, rope: RopeTables | None, mask: Tensor | None = None) -> Any:
        # Not tied to `training`: a frozen backbone is in eval mode and may still carry a graph (early fusion).
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, rope, mask, use_reentrant=False)
        return block(tokens, rope, mask)


def patch_positions(specials: int, rows: int, columns: int, extras: int = 0, *, device: torch.device) -> Tensor:
    """Return (y, x) per token, (P, 2): patches start at 1, row by row; special and extra tokens sit at (0, 0)."""
    y, x = torch.meshgrid(
        torch.arange(1, rows + 1, device=device),
        torch.arange(1, columns + 1, device=device),
        indexing="ij",
    )
    patches = torch.stack((y.flatten(), x.flatten()), dim=-1)
    return torch.cat((patches.new_zeros(specials, 2), patches, patches.new_zeros(extras, 2)))


def rope_tables(make: Callable[..., FrameAndGlobal], *arguments: Any) -> FrameAndGlobal:
    """Return the rotary tables that ``make`` makes of hashable arguments; those used last are remembered.

    They are no state, so they are on no module: a cast must not round them, and another device finds its own. Compiled,
    they are made inside the graph.
    """
    return make(*arguments) if torch.compiler.is_compiling() else remembered_tables(make, *arguments)


# A policy has one layout of tokens, or with early fusion one per length of instruction.
@lru_cache(maxsize=32)
def remembered_tables(make: Callable[..., FrameAndGlobal], *arguments: Any) -> FrameAndGlobal:
    """Make tables in a rollout that a later backward pass can use, too; see :func:`rope_tables`."""
    with torch.inference_mode(False), torch.no_grad():
        return make(*arguments)


def first_view_then_others(token_12RC: Tensor, batch: int, views: int) -> Tensor:
    """Give slot 0 to the first view and slot 1 to the rest: (1, 2, R, C) -> (B * V, R, C)."""
    # No list of indices: on a GPU it would have to be copied there first.
    token_1VRC = torch.cat((token_12RC[:, :1], token_12RC[:, 1:].expand(-1, views - 1, -1, -1)), dim=1)
    return token_1VRC.expand(batch, -1, -1, -1).flatten(0, 1)
