"""Errors on held-out states, in cm and degrees, and figures of what was estimated.

Shape suffixes: B samples, V roles, Q cells per view, E descriptor width.
"""

from __future__ import annotations

import colorsys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.model.geometry.point_heads import ScenePoints

from .batches import Batch, make_batch
from .data import GeometryData
from .losses import FAR_M, MATCH_M, distances, view_pairs
from .network import PretrainingNetwork

MOST_STATES = 256
"""Held-out states that are measured."""
FARTHEST_MATCH_M = 1.0
"""What a match with another thing counts as: between bodies, there are no distances."""
SMALL = 1.5
"""Weight (1 on average over a view) from which on cells count as showing something small."""
_STATES_AT_ONCE = 32
_PIXELS = 192
_SHOWN_STATES, _SHOWN_MATCHES = 4, 12


@torch.no_grad()
def held_out_errors(
    network: PretrainingNetwork, data: GeometryData, states_N: Tensor, roles: Sequence[str], frame: str
) -> dict[str, float]:
    """Return the medians of errors on held-out states.

    Args:
        network: What is measured.
        data: All states.
        states_N: Those that are held out; of more than :data:`MOST_STATES`, evenly spaced ones are taken.
        roles: Names of the views.
        frame: Of points and poses.

    Returns:
        Per role: ``ROLE_depth_cm``, ``ROLE_points_cm`` (unprojected), ``ROLE_direct_points_cm``,
        ``ROLE_sure_points_cm`` of the surer half of its cells and ``ROLE_small_points_cm`` of small things; where poses
        are estimated, ``ROLE_camera_cm`` and ``ROLE_camera_deg``. For cells that another view shows as well,
        ``match_ROLE_cm``: how far from it the cell with the most similar descriptor is, in another view of the same
        role or, ``match_ROLE_FIRST_cm``, in the first; ``match_small_...``, of small things; 100 at most, and for
        another thing. Cells beyond :data:`~.losses.FAR_M` are left out.
    """
    places = torch.linspace(0, len(states_N) - 1, min(len(states_N), MOST_STATES)).round().long()
    found: dict[str, list[Tensor]] = defaultdict(list)
    network.eval()
    for some in states_N[places].split(_STATES_AT_ONCE):
        batch = make_batch(data, some, None, frame).to(network.device)
        seen, _ = network(batch.images_BV3HW)
        for view, role in enumerate(roles):
            _add_view_errors(found, seen, batch, view, role, posed=frame == "base" or view > 0)
        for (view, samples), (other, others) in view_pairs(batch):
            name = f"{roles[view]}_cm" if other == view else f"{roles[view]}_{roles[other]}_cm"
            off, small = _match_errors(seen, batch, (view, samples), (other, others))
            found[f"match_{name}"].append(100 * off)
            found[f"match_small_{name}"].append(100 * off[small])
    network.train()
    medians = {name: torch.cat(values).median().item() for name, values in found.items() if sum(map(len, values))}
    return {name: round(value, 3) for name, value in medians.items()}


def _add_view_errors(
    found: dict[str, list[Tensor]], seen: ScenePoints, batch: Batch, view: int, role: str, *, posed: bool
) -> None:
    near = batch.depth_BVQ[:, view] <= FAR_M
    off = (seen.points_BVQ3[:, view] - batch.points_BVQ3[:, view]).norm(dim=-1)[near]
    direct = (seen.direct_BVQ3[:, view] - batch.points_BVQ3[:, view]).norm(dim=-1)[near]
    depth = (seen.log_depth_BVQ[:, view].exp() - batch.depth_BVQ[:, view]).abs()[near]
    sure = seen.confidence_BVQ[:, view][near]
    small = batch.weight_BVQ[:, view][near] > SMALL
    found[f"{role}_depth_cm"].append(100 * depth)
    found[f"{role}_points_cm"].append(100 * off)
    found[f"{role}_direct_points_cm"].append(100 * direct)
    if len(sure):
        found[f"{role}_sure_points_cm"].append(100 * off[sure >= sure.median()])
    found[f"{role}_small_points_cm"].append(100 * off[small])
    if posed:
        moved = (seen.translation_BV3[:, view] - batch.translation_BV3[:, view]).norm(dim=-1)
        turned_B33 = seen.rotation_BV33[:, view].transpose(1, 2) @ batch.rotation_BV33[:, view]
        cosine = (turned_B33.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2
        found[f"{role}_camera_cm"].append(100 * moved)
        found[f"{role}_camera_deg"].append(cosine.clamp(-1, 1).acos().rad2deg())


def _match_errors(
    seen: ScenePoints, batch: Batch, one: tuple[int, slice], other: tuple[int, slice]
) -> tuple[Tensor, Tensor]:
    """Return the distances (m) between what cells show and what their best matches in another view show.

    Of cells that both views show, :data:`FARTHEST_MATCH_M` at most; and whether they show something small.
    """
    view, samples = one
    best_BQ, distance_BQQ = _best_matches(seen, batch, one, other)
    shared_BQ = (distance_BQQ.min(dim=-1).values <= MATCH_M) & (batch.depth_BVQ[samples, view] <= FAR_M)
    off_BQ = distance_BQQ.gather(2, best_BQ[..., None])[..., 0].clamp(max=FARTHEST_MATCH_M)
    return off_BQ[shared_BQ], batch.weight_BVQ[samples, view][shared_BQ] > SMALL


def _best_matches(
    seen: ScenePoints, batch: Batch, one: tuple[int, slice], other: tuple[int, slice]
) -> tuple[Tensor, Tensor]:
    """Return the cell of the other view with the most similar descriptor, and the true distances of all pairs (m)."""
    (view, samples), (second, others) = one, other
    alike_BQQ = seen.descriptors_BVQE[samples, view] @ seen.descriptors_BVQE[others, second].transpose(1, 2)
    return alike_BQQ.argmax(dim=-1), distances(batch.places_BVQ4[samples, view], batch.places_BVQ4[others, second])


@torch.no_grad()
def write_figures(network: PretrainingNetwork, data: GeometryData, states_N: Tensor, frame: str, folder: Path) -> None:
    """Write ``depth.png`` (image, true and estimated depth of each view) and ``matches.png`` of held-out states."""
    network.eval()
    batch = make_batch(data, states_N[:_SHOWN_STATES], None, frame).to(network.device)
    seen, _ = network(batch.images_BV3HW)
    network.train()
    cells = (data.depth_NAhw.shape[2], data.depth_NAhw.shape[3])
    rows = []
    for sample in range(batch.states):
        row = []
        for view in range(batch.depth_BVQ.shape[1]):
            true, estimated = batch.depth_BVQ[sample, view].cpu(), seen.log_depth_BVQ[sample, view].exp().cpu()
            span = true.min().item(), min(true.max().item(), 2 * FAR_M)
            row += [_enlarged(batch.images_BV3HW[sample, view])]
            row += [_depth_image(depth.reshape(cells), span) for depth in (true, estimated)]
        rows.append(np.concatenate(row, axis=1))
    _save(Image.fromarray(np.concatenate(rows)), folder / "depth.png")
    pairs = list(view_pairs(batch))
    if pairs:
        shown = [_match_image(seen, batch, pair, sample, cells) for pair in pairs for sample in range(batch.states)]
        columns = [np.concatenate(shown[start :: batch.states]) for start in range(batch.states)]
        _save(Image.fromarray(np.concatenate(columns, axis=1)), folder / "matches.png")


def _enlarged(image_3HW: Tensor) -> np.ndarray:
    pixels = (image_3HW.cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(pixels).resize((_PIXELS, _PIXELS), Image.Resampling.NEAREST))


def _depth_image(depth_hw: Tensor, span: tuple[float, float]) -> np.ndarray:
    """Return depths as a gray image, uint8; what is near is bright."""
    low, high = span
    gray = (255 * (1 - (depth_hw - low) / max(high - low, 1e-6))).clamp(0, 255).round().byte().numpy()
    large = Image.fromarray(gray).resize((_PIXELS, _PIXELS), Image.Resampling.NEAREST)
    return np.asarray(large.convert("RGB"))


def _match_image(
    seen: ScenePoints,
    batch: Batch,
    pair: tuple[tuple[int, slice], tuple[int, slice]],
    sample: int,
    cells: tuple[int, int],
) -> np.ndarray:
    """Two views side by side, with lines between cells and their best matches; a dot where the match is within 5 cm."""
    (view, samples), (second, others) = pair
    best_BQ, distance_BQQ = _best_matches(seen, batch, *pair)
    images = batch.images_BV3HW[samples, view][sample], batch.images_BV3HW[others, second][sample]
    canvas = Image.fromarray(np.concatenate([_enlarged(image) for image in images], axis=1))
    pencil = ImageDraw.Draw(canvas)
    shared = (distance_BQQ[sample].min(dim=-1).values <= MATCH_M).nonzero()[:, 0].cpu()
    chosen = shared[torch.linspace(0, len(shared) - 1, min(len(shared), _SHOWN_MATCHES)).round().long()]
    for number, cell in enumerate(chosen.tolist()):
        match = int(best_BQ[sample, cell])
        red, green, blue = colorsys.hsv_to_rgb(number / _SHOWN_MATCHES, 1, 1)
        color = (int(255 * red), int(255 * green), int(255 * blue))
        (x, y), (to_x, to_y) = _middle(cell, cells), _middle(match, cells)
        pencil.line((x, y, to_x + _PIXELS, to_y), fill=color)
        if distance_BQQ[sample, cell, match] <= 2 * MATCH_M:
            pencil.ellipse((to_x + _PIXELS - 3, to_y - 3, to_x + _PIXELS + 3, to_y + 3), fill=color)
    return np.asarray(canvas)


def _middle(cell: int, cells: tuple[int, int]) -> tuple[float, float]:
    row, column = divmod(cell, cells[1])
    return (column + 0.5) / cells[1] * _PIXELS, (row + 0.5) / cells[0] * _PIXELS


def _save(image: Image.Image, file: Path) -> None:
    with replacing(file) as scratch:
        image.save(scratch)
