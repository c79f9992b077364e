"""Average the camera poses that a geometry backbone estimates from frame to frame of an episode.

Shape suffixes: B batch (environments), V view.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lerobot_atlasvla.model.geometry import poses


class SceneCameras:
    """Running means of camera poses over one episode, one per environment.

    A scene camera stands still, but its estimated pose jitters by centimeters from frame to frame; the mean does not.
    """

    def __init__(self) -> None:
        self._sum_BV34: Tensor | None = None
        self._frames = 0

    # The singular values of a handful of 3 x 3 matrices are nothing to compile, and GPU graphs could not hold them.
    @torch.compiler.disable
    def update(self, poses_BV34: Tensor, *, first_moves: bool) -> Tensor:
        """Add the estimates of one frame.

        Args:
            poses_BV34: Camera-to-base poses. Those of another number of environments or views start anew.
            first_moves: Whether the first camera is at the hand.

        Returns:
            The means of the episode so far, of translations and (chordal) of rotations; of a camera that moves, the
            pose as it is.
        """
        if self._sum_BV34 is None or self._sum_BV34.shape != poses_BV34.shape:
            self._sum_BV34, self._frames = torch.zeros_like(poses_BV34), 0
        self._sum_BV34 = self._sum_BV34.to(poses_BV34.device) + poses_BV34.detach()
        self._frames += 1
        moving = int(first_moves)
        still_BV34 = self._sum_BV34[:, moving:]
        mean_BV34 = poses.pose_of(poses.nearest_rotation(still_BV34[..., :3]), still_BV34[..., 3] / self._frames)
        return torch.cat((poses_BV34[:, :moving], mean_BV34), dim=1)


class Placement(NamedTuple):
    """Holds what is known of the cameras' poses beside the backbone's estimate of this frame.

    Attributes:
        first_to_base_B34: Pose of the first view's camera in the robot base's frame, from the state and the hand-eye
            calibration; ``None`` without one.
        cameras: The episode so far; ``None`` in training, where frames of many episodes come in any order.
    """

    first_to_base_B34: Tensor | None = None
    cameras: SceneCameras | None = None
