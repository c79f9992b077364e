"""Policies that read landmarks: of a random VGGT's heads, and of a backbone that does no more than the contract."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.model.geometry import poses
from lerobot_atlasvla.model.geometry.points import PointMap
from lerobot_atlasvla.model.geometry.vggt import Aggregator
from tests.conftest import IMAGE, WRIST
from tests.helpers.released import preprocessed, save, tiny_policy

HAND_EYE = (0.05, 0.0, -0.097, 0.0, 0.0, 0.5**0.5, 0.5**0.5)
"""LIBERO's wrist camera."""
# The robot base's frame, wrist camera first, a new look at every step.
SETTINGS = {
    "query_conditioning": "landmarks",
    "landmark_frame": "base",
    "hand_eye": HAND_EYE,
    "views": (WRIST, IMAGE),
    "freeze_vggt": True,
    "n_action_steps": 1,
}


def landmark_policy(**overrides) -> AtlasVLAPolicy:
    """A policy whose landmarks have started, in eval mode."""
    policy = tiny_policy(**(SETTINGS | overrides))
    return started(policy)


def started(policy: AtlasVLAPolicy) -> AtlasVLAPolicy:
    """Let the landmarks start; a policy that has never been trained sees none."""
    with torch.no_grad():
        policy.train()(preprocessed(policy.config, seed=99))
        # So that they show in the actions of a fresh decoder.
        policy.model.decoder.queries.condition[0].weight[:, -policy.model.landmarks.output_dim :].mul_(20)
    return policy.eval()


def save_checkpoint(folder, **overrides):
    """The same, saved as lerobot-train saves it."""
    return save(landmark_policy(**overrides), folder)


class FourCells(Aggregator):
    """Four cells a patch and narrow descriptors, in the robot base's frame: all that the contract leaves open."""

    point_layers = (1,)
    descriptor_dim = 5
    cells_per_patch = 4
    point_frame = "base"

    def points(self, layers: Sequence[Tensor], grid: tuple[int, int], patches_BVPC: Tensor | None = None) -> PointMap:
        (tokens_BVPC,) = layers
        cells_BVQF = tokens_BVPC[:, :, -grid[0] * grid[1] :].unflatten(3, (4, -1)).flatten(2, 3).float()
        camera_BV3 = tokens_BVPC[:, :, 0, :3].float()
        return PointMap(
            points_BVQ3=cells_BVQF[..., :3],
            confidence_BVQ=cells_BVQF[..., 3].sigmoid(),
            descriptors_BVQE=F.normalize(cells_BVQF[..., 4:9], dim=-1),
            poses_BV34=poses.pose_of(poses.rotation_of_vector(camera_BV3), camera_BV3),
        )
