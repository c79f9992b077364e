"""Points from VGGT's own camera and depth heads, at patch resolution.

VGGT's unit of length is its own: it normalizes every scene by itself, so these are no meters until they are scaled.

Shape suffixes: B batch, V view, P tokens per view, Q patches of a view, C width, H and W in pixels.
Source: Wang et al., VGGT, CVPR 2025, arXiv:2503.11651, sec. 3.3: points that are unprojected from depth and camera are
more accurate than those of the point head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from . import poses
from .points import PointMap
from .vggt_heads import CameraHead, DepthHead

# Wider ones are no camera's; tan(90 degrees) has no end.
_WIDEST_VIEW_RAD = 2.8


def depth_layers(depth: int) -> tuple[int, ...]:
    """Return the layers that the depth head reads of an aggregator with so many pairs; (4, 11, 17, 23) of 24."""
    return tuple(max(0, round(depth * part / 24) - 1) for part in (5, 12, 18, 24))


class VGGTPointHeads(nn.Module):
    """VGGT's camera head and depth head; their parameters have the names of the released file.

    Args:
        embed_dim: Width C of the aggregator; the heads' own widths follow from it, as in VGGT-1B.
        depth: Its number of pairs.
        patch_size: Pixels per patch side.

    Attributes:
        layers: Aggregator layers that :meth:`points` reads.
    """

    def __init__(self, embed_dim: int, depth: int, patch_size: int):
        super().__init__()
        self.layers = depth_layers(depth)
        self.camera_head = CameraHead(2 * embed_dim)
        self.depth_head = DepthHead(
            2 * embed_dim,
            patch_size=patch_size,
            layers=self.layers,
            features=embed_dim // 4,
            out_channels=(embed_dim // 4, embed_dim // 2, embed_dim, embed_dim),
        )

    def points(
        self, layers: Sequence[Tensor], grid: tuple[int, int], patches_BVPC: Tensor, patch_start_idx: int
    ) -> PointMap:
        """Unproject the depth of every patch.

        Args:
            layers: The aggregator's outputs ``(B, V, P, 2C)`` of ``self.layers``.
            grid: Patches per (column, row).
            patches_BVPC: What the aggregator's blocks got; normalized, these are the descriptors.
            patch_start_idx: Index of the first patch token in P.
        """
        # In float32, as VGGT runs its heads: bfloat16 would round a depth of 1 m to 4 mm.
        with torch.autocast(layers[0].device.type, enabled=False):
            layers = [layer.float() for layer in layers]
            side = self.depth_head.patch_size
            size = (grid[0] * side, grid[1] * side)
            depth_BVHW1, confidence_BVHW = self.depth_head(layers, size, patch_start_idx)
            encoding_BV9 = self.camera_head(layers[-1])[-1]
            depth_BVQ = _median_per_patch(depth_BVHW1[..., 0], side)
            # From [1, infinity) to [0, 1).
            confidence_BVQ = 1 - 1 / _median_per_patch(confidence_BVHW, side)
            local_BVQ3 = depth_BVQ[..., None] * _rays(encoding_BV9[..., 7:], grid)
            from_world_BV34 = poses.pose_of(poses.rotation_of_quaternion(encoding_BV9[..., 3:7]), encoding_BV9[..., :3])
            # VGGT's world is the first camera, but for the error of its estimate.
            to_first_BV34 = poses.compose(from_world_BV34[:, :1], poses.inverse(from_world_BV34))
            return PointMap(
                points_BVQ3=poses.transform(to_first_BV34, local_BVQ3),
                confidence_BVQ=confidence_BVQ,
                descriptors_BVQE=F.normalize(patches_BVPC.float(), dim=-1),
                poses_BV34=to_first_BV34,
            )


def _median_per_patch(map_BVHW: Tensor, side: int) -> Tensor:
    """The median pixel of each patch, ``(B, V, Q)``: at an edge, no mean of near and far."""
    rows_BVhsW = map_BVHW.unflatten(2, (-1, side))
    return rows_BVhsW.unflatten(4, (-1, side)).transpose(3, 4).flatten(4).median(dim=-1).values.flatten(2)


def _rays(view_angles_BV2: Tensor, grid: tuple[int, int]) -> Tensor:
    """Directions to the patches' centers with depth 1, ``(B, V, Q, 3)``, of vertical and horizontal fields of view."""
    rows, columns = grid
    device = view_angles_BV2.device
    y_h, x_w = ((torch.arange(count, device=device) + 0.5) * 2 / count - 1 for count in (rows, columns))
    y_Q, x_Q = (axis.flatten() for axis in torch.meshgrid(y_h, x_w, indexing="ij"))
    tangents_BV2 = (view_angles_BV2.clamp(max=_WIDEST_VIEW_RAD) / 2).tan()
    across = (tangents_BV2[..., 1:] * x_Q, tangents_BV2[..., :1] * y_Q)
    return torch.stack((*across, torch.ones_like(across[0])), dim=-1)
