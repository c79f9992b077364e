"""Compare the points that a geometry backbone gives with those of known depth and cameras.

Shape suffixes: V view, H and W in pixels, h and w in cells of the truth, Q cells of the backbone's grid (row by row).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from lerobot_atlasvla.inputs import ViewTransform
from lerobot_atlasvla.model.geometry import poses

if TYPE_CHECKING:
    from lerobot_atlasvla.model.geometry.backbone import GeometryBackbone

CM = 100.0
SMOOTH = 0.05
"""Depths around a place belong to one surface if interpolating changes the nearest by less than this share."""


class View(NamedTuple):
    """One view of a frame as the dataset has it.

    Attributes:
        image_3HW: RGB in [0, 1].
        depth_hw: Along the optical axis, meters; what is not positive is not known.
        intrinsics_33: In pixels of the image; a mirrored one has a negative focal length.
        pose_34: From the camera (OpenCV axes) to the robot's base.
    """

    image_3HW: Tensor
    depth_hw: Tensor
    intrinsics_33: Tensor
    pose_34: Tensor


@dataclass(frozen=True)
class Truth:
    """All views of a frame, the reference first.

    Attributes:
        views: As the dataset has them.
        unmirror: Whether mirrored images are turned the right way round, with their depth and camera matrix.
    """

    views: Sequence[View]
    unmirror: bool

    def upright(self) -> "Truth":
        """Return the views as the backbone is shown them."""
        if not self.unmirror:
            return self
        return replace(self, views=[_unmirrored(v) if v.intrinsics_33[0, 0] < 0 else v for v in self.views])

    def points(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the points at the cells of a grid, in the first camera's frame, ``(V, Q, 3)``, and which are known."""
        first_34 = poses.inverse(self.views[0].pose_34)
        found = [_local_points(view, grid) for view in self.views]
        points = [
            poses.transform(poses.compose(first_34, view.pose_34), local_Q3)
            for view, (local_Q3, _) in zip(self.views, found, strict=True)
        ]
        return torch.stack(points), torch.stack([known for _, known in found])

    def poses(self) -> Tensor:
        """Return the cameras' poses in the first one's frame, ``(V, 3, 4)``."""
        poses_V34 = torch.stack([view.pose_34 for view in self.views])
        return poses.compose(poses.inverse(poses_V34[:1]), poses_V34)


class GeometryEstimate(NamedTuple):
    """Holds the points and cameras that a backbone estimates, and the true ones, all in the first camera's frame.

    Attributes:
        points_VQ3: In the backbone's unit.
        poses_V34: Of the cameras, in the backbone's unit.
        true_VQ3: In meters.
        known_VQ: Where the truth is known.
        true_V34: Of the cameras, in meters.
    """

    points_VQ3: Tensor
    poses_V34: Tensor
    true_VQ3: Tensor
    known_VQ: Tensor
    true_V34: Tensor


@torch.no_grad()
def estimate_geometry(backbone: "GeometryBackbone", truth: Truth, image_size: tuple[int, int]) -> GeometryEstimate:
    """Estimate a frame's points and cameras with a backbone, beside the truth.

    Args:
        backbone: Gives points.
        truth: The frame.
        image_size: (H, W) in pixels that the backbone sees.
    """
    truth = truth.upright()
    device = next(backbone.parameters()).device
    images_1V3HW = ViewTransform(image_size)([view.image_3HW[None] for view in truth.views]).to(device)
    grid = image_size[0] // backbone.patch_size, image_size[1] // backbone.patch_size
    patches = backbone.embed(images_1V3HW)
    point_map = backbone.points(backbone.attend(patches, grid, backbone.point_layers).layers, grid, patches)
    side = round(backbone.cells_per_patch**0.5)
    true_VQ3, known_VQ = truth.points((grid[0] * side, grid[1] * side))
    to_first_V34 = point_map.poses_BV34[0].float().cpu()
    # Those of a backbone that sees the robot's base are in that frame.
    first_34 = poses.inverse(to_first_V34[:1])
    points_VQ3 = poses.transform(first_34, point_map.points_BVQ3[0].float().cpu())
    return GeometryEstimate(points_VQ3, poses.compose(first_34, to_first_V34), true_VQ3, known_VQ, truth.poses())


def compare(estimate: GeometryEstimate, near_cm: Sequence[float]) -> dict[str, Any]:
    """Compare an estimate with the truth.

    Args:
        estimate: Of :func:`estimate_geometry`.
        near_cm: Distances of the overlap.

    Returns:
        Plain numbers: ``overlap``, one share per distance, None for a single view; ``scale``, units of the backbone per
        meter, the median over all cells; ``spread``, the factor by which single cells depart from it (median); and
        lists with one number per view, after that scale: ``point_cm`` (median error), ``camera_cm``, ``camera_deg``
        and ``distance_cm`` (median true distance from the first camera).
    """
    distances_VQ = estimate.true_VQ3.norm(dim=-1)
    ratios = (estimate.points_VQ3.norm(dim=-1) / distances_VQ.clamp(min=1e-6))[estimate.known_VQ].clamp(min=1e-9)
    scale = ratios.median().item()
    camera_V = (estimate.poses_V34[..., 3] / scale - estimate.true_V34[..., 3]).norm(dim=-1)
    return {
        "overlap": overlap(estimate.true_VQ3, estimate.known_VQ, near_cm),
        "scale": scale,
        "spread": (ratios / scale).log().abs().median().exp().item(),
        "point_cm": point_errors_cm(estimate, scale),
        "camera_cm": (camera_V * CM).tolist(),
        "camera_deg": poses.angle_between(estimate.poses_V34[..., :3], estimate.true_V34[..., :3]).tolist(),
        "distance_cm": _medians_cm(distances_VQ, estimate.known_VQ),
    }


def point_errors_cm(estimate: GeometryEstimate, scale: float) -> list[float | None]:
    """Return each view's median error of the points, at so many units of the backbone per meter."""
    return _medians_cm((estimate.points_VQ3 / scale - estimate.true_VQ3).norm(dim=-1), estimate.known_VQ)


def overlap(points_VQ3: Tensor, known_VQ: Tensor, near_cm: Sequence[float]) -> list[float] | None:
    """Return which share of the first view's cells has a cell of another view within each distance."""
    first_Q3, others_N3 = points_VQ3[0][known_VQ[0]], points_VQ3[1:][known_VQ[1:]]
    if len(points_VQ3) < 2:
        return None
    if not len(first_Q3) or not len(others_N3):
        return [0.0] * len(near_cm)
    nearest_cm = torch.cdist(first_Q3, others_N3).amin(dim=1) * CM
    return [(nearest_cm <= near).float().mean().item() for near in near_cm]


def _medians_cm(meters_VQ: Tensor, known_VQ: Tensor) -> list[float | None]:
    """Each view's median; None of a view of which nothing is known."""
    pairs = zip(meters_VQ, known_VQ, strict=True)
    return [meters_Q[known_Q].median().item() * CM if known_Q.any() else None for meters_Q, known_Q in pairs]


def _unmirrored(view: View) -> View:
    intrinsics_33 = view.intrinsics_33.clone()
    intrinsics_33[0] = -intrinsics_33[0]
    intrinsics_33[0, 2] += view.image_3HW.shape[-1]
    return view._replace(
        image_3HW=view.image_3HW.flip(-1), depth_hw=view.depth_hw.flip(-1), intrinsics_33=intrinsics_33
    )


def _depth_at(depth_hw: Tensor, places_RC2: Tensor) -> Tensor:
    """Depth at places in [0, 1], x and y, ``(R, C)``; 0 where it is not known.

    1/depth is linear in the pixels of a plane, and so interpolated; at the edge of a thing the nearest depth counts.
    """
    known_hw = (depth_hw > 0) & depth_hw.isfinite()
    inverse_11hw = torch.where(known_hw, 1 / depth_hw, 0.0)[None, None]
    places_1RC2 = 2 * places_RC2[None] - 1

    def sampled(mode: str) -> Tensor:
        return F.grid_sample(inverse_11hw, places_1RC2, mode=mode, padding_mode="border", align_corners=False)[0, 0]

    nearest_RC, linear_RC = sampled("nearest"), sampled("bilinear")
    smooth_RC = (linear_RC / nearest_RC - 1).abs() < SMOOTH
    chosen_RC = torch.where(smooth_RC, linear_RC, nearest_RC)
    return torch.where(chosen_RC > 0, 1 / chosen_RC, 0.0)


def _local_points(view: View, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points at the middle of each cell in the camera's own frame, ``(Q, 3)``, and where depth is known."""
    (rows, columns), (height, width) = grid, view.image_3HW.shape[-2:]
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    pixels_Q3 = torch.stack((x.flatten() * width, y.flatten() * height, torch.ones(rows * columns)), dim=-1)
    depth_Q = _depth_at(view.depth_hw, torch.stack((x, y), dim=-1)).flatten()
    known_Q = depth_Q > 0
    rays_Q3 = pixels_Q3 @ torch.linalg.inv(view.intrinsics_33).mT
    return rays_Q3 * torch.where(known_Q, depth_Q, 1.0)[:, None], known_Q
