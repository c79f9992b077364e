"""Rigid transforms as 3 x 4 matrices [rotation | translation]: composed, inverted, applied, averaged.

Shape suffixes: ... any leading axes, Q points.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor


def pose_of(rotation_33: Tensor, translation_3: Tensor) -> Tensor:
    """Put rotations ``(..., 3, 3)`` and translations ``(..., 3)`` together, ``(..., 3, 4)``."""
    return torch.cat((rotation_33, translation_3[..., None]), dim=-1)


def inverse(pose_34: Tensor) -> Tensor:
    """Invert transforms ``(..., 3, 4)``."""
    rotation_33 = pose_34[..., :3].mT
    return pose_of(rotation_33, -(rotation_33 @ pose_34[..., 3:])[..., 0])


def scaled(pose_34: Tensor, scale: float) -> Tensor:
    """Multiply the translations of transforms ``(..., 3, 4)``."""
    return pose_of(pose_34[..., :3], pose_34[..., 3] * scale)


def compose(outer_34: Tensor, inner_34: Tensor) -> Tensor:
    """Return the transform that applies ``inner`` and then ``outer``; leading axes are broadcast."""
    rotation_33 = outer_34[..., :3] @ inner_34[..., :3]
    return pose_of(rotation_33, (outer_34[..., :3] @ inner_34[..., 3:])[..., 0] + outer_34[..., 3])


def transform(pose_34: Tensor, points_Q3: Tensor) -> Tensor:
    """Apply transforms ``(..., 3, 4)`` to points ``(..., Q, 3)``."""
    return points_Q3 @ pose_34[..., :3].mT + pose_34[..., None, :, 3]


def rotation_of_quaternion(quaternion_4: Tensor) -> Tensor:
    """Turn quaternions x y z w ``(..., 4)``, of any length but zero, into matrices ``(..., 3, 3)``."""
    x, y, z, w = F.normalize(quaternion_4, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_of_vector(vector_3: Tensor) -> Tensor:
    """Turn rotation vectors (axis times angle in rad) ``(..., 3)`` into matrices ``(..., 3, 3)``."""
    half_1 = vector_3.norm(dim=-1, keepdim=True) / 2
    # sin(x) / x, which is 1 at 0; sinc has pi in it.
    axis_3 = vector_3 / 2 * torch.sinc(half_1 / torch.pi)
    return rotation_of_quaternion(torch.cat((axis_3, half_1.cos()), dim=-1))


def nearest_rotation(matrix_33: Tensor) -> Tensor:
    """Return the rotations nearest to matrices ``(..., 3, 3)``; of a sum of rotations, that is their mean.

    Source: Hartley et al., Rotation Averaging, IJCV 2013, sec. 5.3 (the chordal L2 mean).
    """
    u_33, _, vh_33 = torch.linalg.svd(matrix_33)
    # A reflection may be nearer; a camera is none.
    sign = torch.linalg.det(u_33 @ vh_33).sign()
    ones = torch.ones_like(sign)
    return (u_33 * torch.stack((ones, ones, sign), dim=-1)[..., None, :]) @ vh_33


def angle_between(one_33: Tensor, other_33: Tensor) -> Tensor:
    """Return the angles between rotations ``(..., 3, 3)``, in degrees."""
    cosine = ((one_33 * other_33).sum(dim=(-1, -2)) - 1) / 2
    return torch.rad2deg(cosine.clamp(-1, 1).arccos())
