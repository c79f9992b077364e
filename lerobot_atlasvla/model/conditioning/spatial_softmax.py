"""Spatial-softmax conditioning: where each view shows what, for the action queries before they attend to the scene.

Shape suffixes: B batch, V view, P patches per view, D decoder width, K keypoints, M map channels.
Source: spatial softmax, Levine et al., End-to-End Training of Deep Visuomotor Policies, JMLR 2016, arXiv:1504.00702,
sec. 5.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Keypoints (spatial softmax) and a narrow flattened map of each view, from its projected geometry tokens.

    Queries conditioned on state and language alone learn slowly from scratch; with these keypoints a small decoder
    learns about as fast as a convolutional policy. It reads what has been through the frame and global blocks: reading
    the patch tokens before them left the policy no reason to use its geometry backbone.

    Args:
        dim: Width D of the patch tokens.
        grid: Patches per (column, row).
        views: Number of views V.
        keypoints: Softmax keypoints K per view.
        map_channels: Channels M of the flattened map.
    """

    def __init__(self, dim: int, grid: tuple[int, int], views: int, *, keypoints: int, map_channels: int):
        super().__init__()
        self.views = views
        self.norm = nn.LayerNorm(dim)
        self.keypoint_logits = nn.Linear(dim, keypoints)
        self.map = nn.Linear(dim, map_channels)
        # Of a view; the output has the first of all views, then the second.
        self.widths = 2 * keypoints, grid[0] * grid[1] * map_channels
        self.output_dim = views * sum(self.widths)
        rows, columns = grid
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.register_buffer("positions_P2", torch.stack((y.flatten(), x.flatten()), dim=-1), persistent=False)

    def forward(self, patch_tokens_BVPD: Tensor, present: Sequence[int]) -> Tensor:
        """Map ``(B, V', P, D)`` of the views at places ``present`` to ``(B, output_dim)``; absent views are zero."""
        tokens = self.norm(patch_tokens_BVPD)
        weights_BVPK = self.keypoint_logits(tokens).softmax(dim=2)
        keypoints_BVK2 = torch.einsum("bvpk,pc->bvkc", weights_BVPK, self.positions_P2.to(weights_BVPK.dtype))
        parts = [_at(part, present, self.views).flatten(1) for part in (keypoints_BVK2, self.map(tokens))]
        return torch.cat(parts, dim=-1)


def _at(part_BVxy: Tensor, present: Sequence[int], views: int) -> Tensor:
    """Put views at their places among all, zeros elsewhere."""
    if len(present) == views:
        return part_BVxy
    everywhere = part_BVxy.new_zeros(part_BVxy.shape[0], views, *part_BVxy.shape[2:])
    everywhere[:, list(present)] = part_BVxy
    return everywhere
