"""Losses of pretraining: depth, points, poses, what cells look like, and which cells of two views show one place.

Shape suffixes: B samples, V roles, Q cells per view, q queries, E descriptor width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from lerobot_atlasvla.model.geometry.point_heads import ScenePoints

from .batches import Batch

WEIGHTS = {
    "log_depth": 1.0,
    "direct_points": 1.0,
    "points": 1.0,
    "pose": 2.0,
    "color": 1.0,
    "confidence": 0.1,
    "match": 0.2,
}
FAR_M = 1.9
"""Cells beyond it are walls and floor; they count little, and errors are not measured there."""
_FAR_WEIGHT = 0.15
# An error counts in proportion to the distance, which never seems shorter than this.
_NEAR_M = 0.15
# A point that is so far off deserves a confidence of 1 / e.
_TRUST_M = 0.05
_TEMPERATURE = 0.07
# Standard deviation of the place that a cell shows.
MATCH_M = 0.025
_QUERIES = 64
# A query counts if cells of the other view show its place: one exactly there would give 1.
_LEAST_MASS = 0.3


def loss_terms(
    found: ScenePoints, colors_BVQ3: Tensor, batch: Batch, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Return the loss of each kind, a scalar each, not yet weighted.

    Args:
        found: What the heads say.
        colors_BVQ3: Colors read off the descriptors.
        batch: The truth.
        generator: Chooses the cells that are looked for in other views.
    """
    weight_BVQ = torch.where(batch.depth_BVQ > FAR_M, _FAR_WEIGHT, 1.0) * batch.weight_BVQ

    def mean(value_BVQ: Tensor) -> Tensor:
        return (value_BVQ * weight_BVQ).sum() / weight_BVQ.sum()

    near_BVQ = 1 / (_NEAR_M + batch.depth_BVQ)
    off_BVQ = (found.points_BVQ3.detach() - batch.points_BVQ3).norm(dim=-1)
    rotation = (found.rotation_BV33 - batch.rotation_BV33).abs().mean()
    translation = (found.translation_BV3 - batch.translation_BV3).abs().mean()
    trust_BVQ = F.binary_cross_entropy_with_logits(found.confidence_BVQ, (-off_BVQ / _TRUST_M).exp(), reduction="none")
    return {
        "log_depth": mean((found.log_depth_BVQ - batch.depth_BVQ.log()).abs()),
        "direct_points": mean(near_BVQ * (found.direct_BVQ3 - batch.points_BVQ3).abs().mean(dim=-1)),
        "points": mean(near_BVQ * (found.points_BVQ3 - batch.points_BVQ3).abs().mean(dim=-1)),
        "pose": rotation + translation,
        "color": mean((colors_BVQ3 - batch.colors_BVQ3).abs().mean(dim=-1)),
        "confidence": mean(trust_BVQ),
        "match": match_loss(found.descriptors_BVQE, batch, generator),
    }


def view_pairs(batch: Batch) -> Iterator[tuple[tuple[int, slice], tuple[int, slice]]]:
    """Yield pairs of (role, samples) that show one scene: one role seen twice, and each later role beside the first."""
    samples, views = batch.depth_BVQ.shape[:2]
    for view in batch.several:
        yield (view, slice(0, batch.states)), (view, slice(batch.states, samples))
    for view in range(1, views):
        yield (view, slice(0, samples)), (0, slice(0, samples))


def match_loss(descriptors_BVQE: Tensor, batch: Batch, generator: torch.Generator | None) -> Tensor:
    """InfoNCE between cells of two views, with soft targets by the distance of what they show.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, arXiv:1807.03748.
    """
    losses, weights = [], []
    for (view, samples), (other, others) in view_pairs(batch):
        # Drawn where the generator lives, so that a run is the same on any device.
        weight_BQ = batch.weight_BVQ[samples, view].cpu()
        chosen_Bq = torch.multinomial(weight_BQ, min(_QUERIES, weight_BQ.shape[1]), generator=generator)
        chosen_Bq1 = chosen_Bq.to(batch.depth_BVQ.device)[..., None]
        query_BqE = descriptors_BVQE[samples, view].take_along_dim(chosen_Bq1, dim=1)
        distance_BqQ = distances(
            batch.places_BVQ4[samples, view].take_along_dim(chosen_Bq1, dim=1), batch.places_BVQ4[others, other]
        )
        target_BqQ = (-((distance_BqQ / MATCH_M) ** 2) / 2).exp()
        mass_Bq = target_BqQ.sum(dim=-1)
        log_share_BqQ = (query_BqE @ descriptors_BVQE[others, other].mT / _TEMPERATURE).log_softmax(dim=-1)
        far_Bq = batch.depth_BVQ[samples, view].take_along_dim(chosen_Bq1[..., 0], dim=1) > FAR_M
        weights.append((mass_Bq > _LEAST_MASS) * torch.where(far_Bq, _FAR_WEIGHT, 1.0))
        losses.append(-(target_BqQ * log_share_BqQ).sum(dim=-1) / mass_Bq.clamp_min(_LEAST_MASS))
    if not losses:
        return descriptors_BVQE.sum() * 0
    loss, weight = (torch.cat([part.flatten() for part in parts]) for parts in (losses, weights))
    return (loss * weight).sum() / weight.sum().clamp_min(1.0)


def distances(places_BqX: Tensor, others_BQX: Tensor) -> Tensor:
    """Return the distances between all places of two views, ``(B, q, Q)``, m."""
    # By way of a matrix product, bodies that are far apart would cost the last centimeter.
    return torch.cdist(places_BqX, others_BQX, compute_mode="donot_use_mm_for_euclid_dist")
