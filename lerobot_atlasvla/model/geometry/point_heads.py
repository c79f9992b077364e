"""Heads that make points of geometry tokens: what a backbone pretrained by ``atlasvla-pretrain`` knows of the scene.

Shape suffixes: B batch, V view, P tokens per view, Q cells per view (row by row), C width of one layer's output (2C in
``vggt.py``), E descriptor width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from lerobot_atlasvla.model.layers import Mlp

from .points import PointMap
from .record import HeadSizes

# Depth, point, confidence.
_SCALARS = 5
# Logarithms of depths in m, from half a millimeter to 150 m: an untrained head must not overflow.
_LOG_DEPTHS = (-7.6, 5.0)


class ScenePoints(NamedTuple):
    """Holds what the heads estimate for each cell of each view, float32.

    Attributes:
        log_depth_BVQ: Logarithm of the depth along the viewing direction, m.
        direct_BVQ3: Points as the point head has them, m.
        descriptors_BVQE: What the cells show, of unit length.
        confidence_BVQ: Logits of the confidence.
        rotation_BV33: From each view's camera (OpenCV axes) to the frame of the points.
        translation_BV3: Positions of the cameras in it, m.
        points_BVQ3: Points as depth and pose have them, m.
    """

    log_depth_BVQ: Tensor
    direct_BVQ3: Tensor
    descriptors_BVQE: Tensor
    confidence_BVQ: Tensor
    rotation_BV33: Tensor
    translation_BV3: Tensor
    points_BVQ3: Tensor


class PointHeads(nn.Module):
    """Depth, point, descriptor and confidence of each cell of a patch, and the cameras' poses.

    Views come in a fixed order and each has statistics of its own; later ones may be missing.

    Args:
        dim: Width C of a layer's output.
        sizes: Sizes, frame of the points and scales.
    """

    intrinsics_V33: Tensor
    log_depth_V: Tensor
    point_V3: Tensor
    pose_V9: Tensor

    def __init__(self, dim: int, sizes: HeadSizes):
        super().__init__()
        self.cells, self.frame = sizes.cells_per_side, sizes.frame
        self.cell_norm, self.camera_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        width = self.cells**2 * (_SCALARS + sizes.descriptor_dim)
        self.cell_mlp = Mlp(dim, sizes.hidden_dim, width)
        self.camera_mlp = Mlp(dim, sizes.hidden_dim, 9)
        scales = {name: torch.tensor(rows, dtype=torch.float32) for name, rows in sizes.statistics.items()}
        # From the record and not from the weights, which a GPU may keep in bfloat16.
        self.register_buffer("intrinsics_V33", scales["intrinsics"].unflatten(1, (3, 3)), persistent=False)
        self.register_buffer("log_depth_V", scales["log_depth"][:, 0], persistent=False)
        self.register_buffer("point_V3", scales["point"], persistent=False)
        self.register_buffer("pose_V9", scales["pose"], persistent=False)

    def forward(self, layer_BVPC: Tensor, grid: tuple[int, int]) -> ScenePoints:
        """Read the last layer of a backbone.

        Args:
            layer_BVPC: Its output: the camera token first, the patch tokens last.
            grid: Patches per (column, row).

        Raises:
            ValueError: If there are more views than the heads know.
        """
        if layer_BVPC.shape[1] > len(self.point_V3):
            raise ValueError(
                f"The geometry backbone knows {len(self.point_V3)} views, got {layer_BVPC.shape[1]} (--policy.views)."
            )
        # bfloat16 rounds 1 m to 4 mm, so no autocast of a policy's reaches in here.
        with torch.autocast(layer_BVPC.device.type, enabled=False):
            return self._scene(layer_BVPC.to(self.cell_norm.weight.dtype), grid)

    def _scene(self, layer_BVPC: Tensor, grid: tuple[int, int]) -> ScenePoints:
        views, (rows, columns) = layer_BVPC.shape[1], grid
        patches_BVPF = self.cell_mlp(self.cell_norm(layer_BVPC[:, :, -rows * columns :])).float()
        cells = patches_BVPF.unflatten(2, (rows, columns)).unflatten(-1, (self.cells, self.cells, -1))
        # Patches and the cells in them, to cells of the view row by row.
        cells_BVQF = cells.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 4)
        log_depth = (self.log_depth_V[:views, None] + cells_BVQF[..., 0]).clamp(*_LOG_DEPTHS)
        direct = self.point_V3[:views, None] + cells_BVQF[..., 1:4]
        rotation, translation = self._poses(layer_BVPC[:, :, 0])
        rays_VQ3 = self.rays((rows * self.cells, columns * self.cells))[:views]
        seen_BVQ3 = rays_VQ3 * log_depth.exp()[..., None]
        return ScenePoints(
            log_depth_BVQ=log_depth,
            direct_BVQ3=direct,
            descriptors_BVQE=F.normalize(cells_BVQF[..., _SCALARS:], dim=-1),
            confidence_BVQ=cells_BVQF[..., 4],
            rotation_BV33=rotation,
            translation_BV3=translation,
            points_BVQ3=seen_BVQ3 @ rotation.transpose(-1, -2) + translation[:, :, None],
        )

    def rays(self, cells: tuple[int, int]) -> Tensor:
        """Return viewing directions through the middle of each cell, ``(V, Q, 3)``, one meter deep."""
        return cell_rays(self.intrinsics_V33, cells)

    def _poses(self, camera_BVC: Tensor) -> tuple[Tensor, Tensor]:
        views = camera_BVC.shape[1]
        pose_BV9 = self.pose_V9[:views] + self.camera_mlp(self.camera_norm(camera_BVC)).float()
        rotation, translation = rotation_from_columns(pose_BV9[..., 3:]), pose_BV9[..., :3]
        if self.frame == "first_view":
            same = torch.eye(3, device=rotation.device).expand_as(rotation[:, :1])
            rotation = torch.cat((same, rotation[:, 1:]), dim=1)
            translation = torch.cat((torch.zeros_like(translation[:, :1]), translation[:, 1:]), dim=1)
        return rotation, translation


def point_map(heads: PointHeads, layers: Sequence[Tensor], grid: tuple[int, int]) -> PointMap:
    """Return what the heads say of a backbone's layers, of which the last one is read."""
    found = heads(layers[-1], grid)
    return PointMap(
        points_BVQ3=found.points_BVQ3,
        confidence_BVQ=found.confidence_BVQ.sigmoid(),
        descriptors_BVQE=found.descriptors_BVQE,
        poses_BV34=torch.cat((found.rotation_BV33, found.translation_BV3[..., None]), dim=-1),
    )


def cell_rays(intrinsics_X33: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return the camera-frame position, one meter deep, of the middle of each cell of an image.

    Args:
        intrinsics_X33: Camera matrices in image widths and heights (first and second row divided by them), any number
            of leading axes X. A mirrored image has a negative focal length.
        cells: Cells per (column, row).

    Returns:
        ``(X, Q, 3)``.
    """
    rows, columns = cells
    v, u = torch.meshgrid(
        (torch.arange(rows, device=intrinsics_X33.device) + 0.5) / rows,
        (torch.arange(columns, device=intrinsics_X33.device) + 0.5) / columns,
        indexing="ij",
    )
    places_Q3 = torch.stack((u.flatten(), v.flatten(), torch.ones(rows * columns, device=u.device)), dim=-1)
    return places_Q3 @ torch.linalg.inv(intrinsics_X33).transpose(-1, -2)


def rotation_from_columns(columns_X6: Tensor) -> Tensor:
    """Return the rotation ``(X, 3, 3)`` whose first two columns come nearest to two given vectors, one after the other.

    Source: Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019, arXiv:1812.07035.
    """
    first = F.normalize(columns_X6[..., :3], dim=-1)
    second = columns_X6[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)
