"""3-D landmarks: where in space each view shows what, for the action queries before they attend to the scene.

A camera that moves changes where in the image a thing is, but not where it is in space. Shape suffixes: B batch,
V view, Q cells of a view, K landmarks, E descriptor width.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from lerobot_atlasvla.model.geometry import poses
from lerobot_atlasvla.model.geometry.points import PointMap

from .scene_cameras import Placement

START_TEMPERATURE = 0.05
# A landmark counts as seen from about this cosine on, and the width of "about".
VISIBLE_FROM, VISIBLE_WIDTH = 0.8, 0.05
DROPOUT = 0.2
# Confidence of the backbone at which a landmark counts about half.
HALF_TRUST = 0.1
# Standard deviation, m, of the places where a landmark is found, from which on it is in no place.
ONE_PLACE_M = 0.05
# Numbers of a landmark: position and visibility.
NUMBERS = 4
# Positions are given in this unit, from where a landmark was on average in the first batch: in meters, a network
# that begins with numbers of about 1 would learn late that they matter.
UNIT_M = 0.1
_LEAST_CONFIDENCE = 1e-3
_LEAST_SEEN = 1e-3


class Landmarks(nn.Module):
    """Looks in every view for learned descriptors, and says where in space they are and whether they are seen.

    A landmark is a prototype in descriptor space. Its position is the mean of the view's points, weighted by a peaked
    softmax over how alike cell and prototype are; a diffuse one would be the centroid of whatever is in view, and move
    with the camera. Its visibility (how alike the best cell is, times how sure the backbone is, times how much it is in
    one place) is multiplied in and given as the fourth number. In training, landmarks are left out at random, and those
    of every camera that stands still are shifted and turned at random, so that it matters how they lie to each other,
    the hand among them, and not to the millimeter where.

    The prototypes start, in the first training batch, at cells of that batch that are as different as possible
    (farthest-point sampling): from random ones nothing would be seen, and nothing learned.

    Args:
        views: Number of views V.
        landmarks: Landmarks K per view.
        descriptor_dim: Width E of the descriptors.
        point_frame: Frame of the backbone's points, ``first_view`` (that view's camera) or ``base`` (the robot's).
        frame: Frame of the landmarks, one of the same.
        first_moves: Whether the first camera moves with the hand; all others stand still during an episode.
        scale: Meters per unit of the backbone's points.
        box: Lowest x, y, z, then highest x, y, z of what counts, in meters in the frame of the landmarks; empty for
            everything.
        noise_m: Standard deviation of the random shift in training, meters per axis.
        turn_deg: Standard deviation of the random turn in training, degrees about each axis.
    """

    box_23: Tensor
    started: Tensor
    centers_VK3: Tensor

    def __init__(
        self,
        views: int,
        landmarks: int,
        descriptor_dim: int,
        *,
        point_frame: str = "first_view",
        frame: str = "first_view",
        first_moves: bool = True,
        scale: float = 1.0,
        box: tuple[float, ...] = (),
        noise_m: float = 0.0,
        turn_deg: float = 0.0,
    ):
        super().__init__()
        self.point_frame, self.frame, self.first_moves = point_frame, frame, first_moves
        self.scale, self.noise_m, self.turn_rad = scale, noise_m, math.radians(turn_deg)
        self.output_dim = views * landmarks * NUMBERS
        self.prototypes_VKE = nn.Parameter(torch.randn(views, landmarks, descriptor_dim))
        self.log_temperature = nn.Parameter(torch.tensor(START_TEMPERATURE).log())
        bounds = torch.tensor(box).view(2, 3) if box else torch.tensor((-torch.inf, torch.inf))[:, None].expand(2, 3)
        self.register_buffer("box_23", bounds.clone(), persistent=False)
        self.register_buffer("centers_VK3", torch.zeros(views, landmarks, 3))
        # Whether the prototypes have started; saved, for a resumed run must not start them again.
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._has_started = False

    def forward(self, points: PointMap, placement: Placement | None = None) -> Tensor:
        """Map the points of all views to ``(B, output_dim)``, view by view and landmark by landmark.

        A landmark's four numbers are its offset from where it was in the first batch, in units of :data:`UNIT_M`, times
        its visibility, and the visibility.

        Args:
            points: What the geometry backbone sees.
            placement: Where the cameras are, as far as that is known.
        """
        with torch.autocast(points.points_BVQ3.device.type, enabled=False):
            positions_BVQ3 = self.place(points, placement)
            inside_BVQ = ((positions_BVQ3 >= self.box_23[0]) & (positions_BVQ3 <= self.box_23[1])).all(dim=-1)
            descriptors_BVQE = points.descriptors_BVQE.float()
            confidence_BVQ = points.confidence_BVQ.float()
            if self.training and not self._has_started:
                self._start(descriptors_BVQE, confidence_BVQ, inside_BVQ, positions_BVQ3)
            weights_BVKQ, seen_BVK = self.match(descriptors_BVQE, confidence_BVQ, inside_BVQ, positions_BVQ3)
            landmarks_BVK3 = weights_BVKQ @ positions_BVQ3
            if self.training:
                landmarks_BVK3 = self._displaced(landmarks_BVK3, seen_BVK)
                seen_BVK = seen_BVK * (torch.rand_like(seen_BVK) >= DROPOUT)
            seen_BVK1 = seen_BVK[..., None]
            offsets_BVK3 = (landmarks_BVK3 - self.centers_VK3) / UNIT_M
            return torch.cat((offsets_BVK3 * seen_BVK1, seen_BVK1), dim=-1).flatten(1)

    def match(
        self, descriptors_BVQE: Tensor, confidence_BVQ: Tensor, inside_BVQ: Tensor, positions_BVQ3: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare all cells of a view with its prototypes.

        Args:
            descriptors_BVQE: The cells' descriptors, of unit length.
            confidence_BVQ: How far to trust each cell, in [0, 1].
            inside_BVQ: True = the cell counts.
            positions_BVQ3: Where the cells are, m.

        Returns:
            Weights of the cells ``(B, V, K, Q)``, which sum to 1, and visibilities ``(B, V, K)`` in [0, 1].
        """
        cosine_BVKQ = F.normalize(self.prototypes_VKE, dim=-1) @ descriptors_BVQE.mT
        outside_BV1Q = ~inside_BVQ[:, :, None]
        logits_BVKQ = cosine_BVKQ / self.log_temperature.exp()
        logits_BVKQ = logits_BVKQ + confidence_BVQ[:, :, None].clamp(min=_LEAST_CONFIDENCE).log()
        weights_BVKQ = logits_BVKQ.masked_fill(outside_BV1Q, torch.finfo(logits_BVKQ.dtype).min).softmax(dim=-1)
        best_BVK = cosine_BVKQ.masked_fill(outside_BV1Q, -1.0).amax(dim=-1)
        trust_BVK = (weights_BVKQ @ confidence_BVQ[..., None])[..., 0]
        # Saturates: small things are less sure than a bare table, but they are what matters.
        trust_BVK = (1 + HALF_TRUST) * trust_BVK / (trust_BVK + HALF_TRUST)
        alike_BVK = torch.sigmoid((best_BVK - VISIBLE_FROM) / VISIBLE_WIDTH)
        return weights_BVKQ, alike_BVK * trust_BVK * unity(weights_BVKQ, positions_BVQ3)

    def place(self, points: PointMap, placement: Placement | None) -> Tensor:
        """Return all points ``(B, V, Q, 3)`` in meters, in the frame of the landmarks.

        Where the cameras' places in the robot base's frame can be told, the mean over the episode so far takes the
        place of each that stands still.
        """
        points_BVQ3 = points.points_BVQ3.float() * self.scale
        to_frame_BV34 = poses.scaled(points.poses_BV34.float(), self.scale)
        known_B34 = None if placement is None else placement.first_to_base_B34
        if self.point_frame == "base":  # hand_eye is refused: its frame may be another
            to_base_BV34 = to_frame_BV34
        elif known_B34 is not None:
            to_base_BV34 = poses.compose(known_B34[:, None], to_frame_BV34)
        else:  # Nothing is known but the first camera's frame, in which the points are.
            return points_BVQ3
        if placement is not None and placement.cameras is not None:
            to_base_BV34 = placement.cameras.update(to_base_BV34, first_moves=self.first_moves)
        local_BVQ3 = poses.transform(poses.inverse(to_frame_BV34), points_BVQ3)
        placed_BVQ3 = poses.transform(to_base_BV34, local_BVQ3)
        return placed_BVQ3 if self.frame == "base" else poses.transform(poses.inverse(to_base_BV34[:, :1]), placed_BVQ3)

    def _displaced(self, landmarks_BVK3: Tensor, seen_BVK: Tensor) -> Tensor:
        """Shift what each camera that stands still shows, and turn it about its middle, as if seen by another."""
        moving = int(self.first_moves)
        moving_BVK3, still_BVK3 = landmarks_BVK3[:, :moving], landmarks_BVK3[:, moving:]
        weights_BVK1 = seen_BVK[:, moving:, :, None]
        mass_BV11 = weights_BVK1.sum(dim=2, keepdim=True).clamp(min=_LEAST_SEEN)
        middle_BV13 = (still_BVK3 * weights_BVK1).sum(dim=2, keepdim=True) / mass_BV11
        shift_BV13 = self.noise_m * torch.randn_like(middle_BV13)
        turn_BV33 = poses.rotation_of_vector(self.turn_rad * torch.randn_like(middle_BV13[:, :, 0]))
        turned_BVK3 = (still_BVK3 - middle_BV13) @ turn_BV33.mT + middle_BV13 + shift_BV13
        return torch.cat((moving_BVK3, turned_BVK3), dim=1)

    @torch.no_grad()
    def _start(
        self, descriptors_BVQE: Tensor, confidence_BVQ: Tensor, inside_BVQ: Tensor, positions_BVQ3: Tensor
    ) -> None:
        """Let the prototypes start among the cells of this batch, unless they have learned already."""
        if not self.started:
            for prototypes_KE, cells_BQE, inside_BQ in zip(
                self.prototypes_VKE, descriptors_BVQE.unbind(1), inside_BVQ.unbind(1), strict=True
            ):
                cells_NE = cells_BQE[inside_BQ]
                cells_NE = cells_NE if len(cells_NE) else cells_BQE.flatten(0, 1)
                prototypes_KE.copy_(farthest_points(cells_NE, len(prototypes_KE)))
            weights_BVKQ, seen_BVK = self.match(descriptors_BVQE, confidence_BVQ, inside_BVQ, positions_BVQ3)
            # Those that are hardly seen yet, or not at all, have a place as well.
            share_BVK1 = seen_BVK.clamp(min=torch.finfo(seen_BVK.dtype).tiny)[..., None]
            sum_VK3 = (weights_BVKQ @ positions_BVQ3 * (share_BVK1 / share_BVK1.sum(dim=0))).sum(dim=0)
            self.centers_VK3.copy_(sum_VK3)
            if torch.distributed.is_initialized():
                # Every process sees other cells.
                torch.distributed.broadcast(self.prototypes_VKE, 0)
                torch.distributed.broadcast(self.centers_VK3, 0)
            self.started.fill_(True)
        self._has_started = True


def unity(weights_BVKQ: Tensor, positions_BVQ3: Tensor) -> Tensor:
    """Return how much each landmark is in one place, ``(B, V, K)`` in (0, 1]: 1 for a single cell.

    What looks the same all over a table is found wherever the camera happens to look.

    Args:
        weights_BVKQ: Weights of the cells, which sum to 1.
        positions_BVQ3: Where the cells are, m.
    """
    # From the middle of the view, or the difference of squares would cancel where the origin is far.
    centered_BVQ3 = positions_BVQ3 - positions_BVQ3.mean(dim=-2, keepdim=True)
    squares_BVQ1 = centered_BVQ3.square().sum(dim=-1, keepdim=True)
    moments_BVK4 = weights_BVKQ @ torch.cat((centered_BVQ3, squares_BVQ1), dim=-1)
    variance_BVK = moments_BVK4[..., 3] - moments_BVK4[..., :3].square().sum(dim=-1)
    return torch.exp(-variance_BVK.clamp(min=0) / (2 * ONE_PLACE_M**2))


def farthest_points(cells_NE: Tensor, count: int) -> Tensor:
    """Choose cells that are as different as possible, ``(count, E)``; some twice if there are fewer.

    Source: Gonzalez, Clustering to Minimize the Maximum Intercluster Distance, Theoretical Computer Science 1985.

    Args:
        cells_NE: Descriptors of unit length, at least one.
        count: How many are wanted.
    """
    # From the most common look on: nothing random, for a resumed run.
    chosen = [cells_NE[(cells_NE @ cells_NE.mean(dim=0)).argmax()]]
    nearest_N = cells_NE @ chosen[0]
    while len(chosen) < count:
        chosen.append(cells_NE[nearest_N.argmin()])
        nearest_N = torch.maximum(nearest_N, cells_NE @ chosen[-1])
    return torch.stack(chosen)
