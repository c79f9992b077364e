"""Points that a geometry backbone sees: what its heads give to a policy that reads the scene in three dimensions.

Shape suffixes: B batch, V view, Q cells of a view (row by row), E descriptor width.
"""

from typing import NamedTuple

from torch import Tensor


class PointMap(NamedTuple):
    """Scene points at the cells of each view, in the backbone's ``point_frame``.

    That is the first view's camera (OpenCV: x right, y down, z forward), or the robot's base.

    Attributes:
        points_BVQ3: Position of what each cell shows, meters where the backbone knows its scale.
        confidence_BVQ: How far to trust it, in [0, 1].
        descriptors_BVQE: What the cell shows, of unit length: alike where two views show the same place.
        poses_BV34: Rotation and translation (meters) from each view's camera to that frame; if it is the first view's,
            the first is the identity.
    """

    points_BVQ3: Tensor
    confidence_BVQ: Tensor
    descriptors_BVQE: Tensor
    poses_BV34: Tensor
