"""VGGT's camera and depth heads: what the geometry backbone saw, as camera poses and depth maps. Not used for acting.

Shape suffixes: B batch, V view, P tokens per view, C width of one aggregator output (2C in ``vggt.py``), N images
(B * V), F feature channels, H and W in pixels, h and w in feature cells.
Source: Wang et al., VGGT, CVPR 2025, arXiv:2503.11651, sec. 3.3; rules and names of facebookresearch/vggt
``heads/camera_head.py`` and ``heads/dpt_head.py``; Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from lerobot_atlasvla.model.layers import Block, Mlp

POSE_SIZE = 9
ROUNDS = 4
# Blocks of a round, and their attention heads.
TRUNK_DEPTH, TRUNK_HEADS = 4, 16
POSITION_WEIGHT = 0.1
POSITION_BASE = 100.0


class CameraHead(nn.Module):
    """Camera poses from the camera tokens of the last layer, refined in four rounds.

    Args:
        dim_in: Width C of an aggregator output.
    """

    def __init__(self, dim_in: int = 2048):
        super().__init__()
        self.token_norm = nn.LayerNorm(dim_in)
        self.trunk_norm = nn.LayerNorm(dim_in)
        self.trunk = nn.Sequential(*(Block(dim_in, TRUNK_HEADS, qk_norm=False) for _ in range(TRUNK_DEPTH)))
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim_in)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim_in, 3 * dim_in))
        self.adaln_norm = nn.LayerNorm(dim_in, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim_in, dim_in // 2, POSE_SIZE)

    def forward(self, last_layer_BVPC: Tensor) -> list[Tensor]:
        """Estimate the pose of every view.

        Args:
            last_layer_BVPC: The aggregator's last output.

        Returns:
            Pose encodings ``(B, V, 9)``, one per round, the last one best: camera-from-world translation (3, in the
            scene's own unit), quaternion (4, x y z w, not normalized), vertical and horizontal field of view (2, rad).
        """
        tokens_BVC = self.token_norm(last_layer_BVPC[:, :, 0])
        pose_BV9 = self.empty_pose_tokens.expand(*tokens_BVC.shape[:2], -1)
        total_BV9 = torch.zeros_like(pose_BV9)
        rounds = []
        for _ in range(ROUNDS):
            condition_BVC = self.embed_pose(pose_BV9)
            shift, scale, gate = self.poseLN_modulation(condition_BVC).chunk(3, dim=-1)
            modulated = tokens_BVC + gate * (self.adaln_norm(tokens_BVC) * (1 + scale) + shift)
            total_BV9 = total_BV9 + self.pose_branch(self.trunk_norm(self.trunk(modulated)))
            pose_BV9 = total_BV9.detach()
            rounds.append(torch.cat((total_BV9[..., :7], total_BV9[..., 7:].relu()), dim=-1))
        return rounds


class Depth(NamedTuple):
    """Holds the estimated depth of every pixel, and how sure it is.

    Attributes:
        depth_BVHW1: Depth, positive, in the scene's own unit.
        confidence_BVHW: At least 1; larger is surer.
    """

    depth_BVHW1: Tensor
    confidence_BVHW: Tensor


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions around a skip. The reference's ReLU works in place, so the skip carries relu(x), not x."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x_NFhw: Tensor) -> Tensor:
        """Map ``(N, F, h, w)`` to ``(N, F, h, w)``."""
        rectified = x_NFhw.relu()
        return self.conv2(self.conv1(rectified).relu()) + rectified


class FusionBlock(nn.Module):
    """Add a finer feature map (if there is one), refine, enlarge."""

    def __init__(self, features: int, *, has_skip: bool):
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x_NFhw: Tensor, skip_NFhw: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Map ``(N, F, h, w)`` to ``(N, F, *size)``."""
        if skip_NFhw is not None:
            x_NFhw = x_NFhw + self.resConfUnit1(skip_NFhw)
        return self.out_conv(_resize(self.resConfUnit2(x_NFhw), size))


class DepthHead(nn.Module):
    """Dense prediction from four aggregator layers (DPT).

    Args:
        dim_in: Width C of an aggregator output.
        patch_size: Pixels per patch side.
        layers: Aggregator layers read, coarse roles last; (4, 11, 17, 23) in VGGT-1B.
        features: Channels F while fusing.
        out_channels: Channels of the four maps before fusing.
    """

    def __init__(
        self,
        dim_in: int = 2048,
        *,
        patch_size: int = 14,
        layers: Sequence[int] = (4, 11, 17, 23),
        features: int = 256,
        out_channels: Sequence[int] = (256, 512, 1024, 1024),
    ):
        super().__init__()
        self.patch_size = patch_size
        self.layers = tuple(layers)
        first, second, third, fourth = out_channels
        self.norm = nn.LayerNorm(dim_in)
        self.projects = nn.ModuleList(nn.Conv2d(dim_in, channels, 1) for channels in out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.scratch = nn.ModuleDict(
            {
                f"layer{index}_rn": nn.Conv2d(channels, features, 3, padding=1, bias=False)
                for index, channels in enumerate((first, second, third, fourth), start=1)
            }
            | {f"refinenet{index}": FusionBlock(features, has_skip=index != 4) for index in range(1, 5)}
            | {
                "output_conv1": nn.Conv2d(features, features // 2, 3, padding=1),
                "output_conv2": nn.Sequential(
                    nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 2, 1)
                ),
            }
        )

    def forward(self, layers: Sequence[Tensor], image_size: tuple[int, int], patch_start_idx: int) -> Depth:
        """Estimate the depth of every pixel from the aggregator's layers.

        Args:
            layers: The four aggregator outputs ``(B, V, P, C)`` of ``self.layers``, in that order.
            image_size: (H, W) of the images in pixels.
            patch_start_idx: Index of the first patch token in P.
        """
        height, width = image_size
        aspect = width / height
        grid = (height // self.patch_size, width // self.patch_size)
        maps = []
        for tokens_BVPC, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            patches_NPC = self.norm(tokens_BVPC[:, :, patch_start_idx:].flatten(0, 1))
            map_NChw = project(patches_NPC.transpose(1, 2).unflatten(2, grid))
            maps.append(resize(_add_positions(map_NChw, aspect)))
        rows = [self.scratch[f"layer{index}_rn"](map_NChw) for index, map_NChw in enumerate(maps, start=1)]
        fused = self.scratch["refinenet4"](rows[3], None, _size(rows[2]))
        fused = self.scratch["refinenet3"](fused, rows[2], _size(rows[1]))
        fused = self.scratch["refinenet2"](fused, rows[1], _size(rows[0]))
        fine_size = (2 * rows[0].shape[-2], 2 * rows[0].shape[-1])
        fused = self.scratch["refinenet1"](fused, rows[0], fine_size)
        pixels_NFHW = _resize(self.scratch["output_conv1"](fused), image_size)
        raw_N2HW = self.scratch["output_conv2"](_add_positions(pixels_NFHW, aspect))
        raw_BV2HW = raw_N2HW.unflatten(0, layers[0].shape[:2])
        return Depth(raw_BV2HW[:, :, 0, :, :, None].exp(), 1 + raw_BV2HW[:, :, 1].exp())


def _size(x_NFhw: Tensor) -> tuple[int, int]:
    return x_NFhw.shape[-2], x_NFhw.shape[-1]


def _resize(x_NFhw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x_NFhw, size, mode="bilinear", align_corners=True)


def _add_positions(x_NFhw: Tensor, aspect: float) -> Tensor:
    """Add sine and cosine of each cell's place in the image; ``aspect`` is the image's width over its height."""
    _, channels, rows, columns = x_NFhw.shape
    diagonal = (aspect**2 + 1) ** 0.5
    half = channels // 2
    exponents = torch.arange(half // 2, dtype=torch.float64, device=x_NFhw.device) / (half / 2)
    frequencies = POSITION_BASE**-exponents

    def encode(cells: int, span: float) -> Tensor:
        edge = span * (cells - 1) / cells
        at = torch.linspace(-edge, edge, cells, dtype=x_NFhw.dtype, device=x_NFhw.device)
        angles = at.to(torch.float64)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1).float()

    x_part = encode(columns, aspect / diagonal).T[:, None, :].expand(-1, rows, -1)
    y_part = encode(rows, 1 / diagonal).T[:, :, None].expand(-1, -1, columns)
    return x_NFhw + POSITION_WEIGHT * torch.cat((x_part, y_part)).to(x_NFhw.dtype)
