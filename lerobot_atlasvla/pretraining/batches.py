"""Batches of views, two of each scene where there can be, with what the heads should say of them.

Shape suffixes: B samples, V roles, Q cells per view, H and W in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from .data import APART_M, GeometryData, points_of

BRIGHTNESS = 0.15
"""Largest change of the brightness of each image in training, as a factor."""


class Batch(NamedTuple):
    """Samples of views. The second half shows the same scenes again.

    Where the data have object coordinates, these are other states of the same episodes, so that what a cell looks like
    does not depend on where its thing is. Else they are the same states, seen by other cameras, if roles have several.

    Attributes:
        images_BV3HW: RGB in [0, 1].
        colors_BVQ3: Mean color of each cell, without augmentation.
        depth_BVQ: m.
        points_BVQ3: In the frame of the heads, m.
        places_BVQ4: Of what each cell shows; the same in all samples of a scene. In the frame of its body, and far from
            all other bodies; or in the robot base's frame, and 0.
        weight_BVQ: Cells of small things count more, about 1 on average.
        rotation_BV33: From each camera to the frame of the heads.
        translation_BV3: m.
        states: Scenes in the batch; two samples of each, or one.
        several: Roles whose views in the two samples differ.
    """

    images_BV3HW: Tensor
    colors_BVQ3: Tensor
    depth_BVQ: Tensor
    points_BVQ3: Tensor
    places_BVQ4: Tensor
    weight_BVQ: Tensor
    rotation_BV33: Tensor
    translation_BV3: Tensor
    states: int
    several: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        parts: dict[str, Any] = {n: part.to(device) for n, part in self._asdict().items() if isinstance(part, Tensor)}
        return self._replace(**parts)


def draw_views(data: GeometryData, states: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """Choose a view for each role of each sample, ``(B, V)``; the samples of a state differ where they can.

    Args:
        data: The data.
        states: Number of states.
        samples: Samples of each state.
        generator: Source of randomness; None takes the first views.
    """
    columns = []
    for views in data.alternatives:
        keys = torch.arange(len(views)).expand(states, -1).float()
        if generator is not None:
            keys = torch.rand(states, len(views), generator=generator)
        order = keys.argsort(dim=1)[:, torch.arange(samples) % len(views)]
        columns.append(torch.tensor(views)[order].T.flatten())
    return torch.stack(columns, dim=1)


def make_batch(data: GeometryData, states_N: Tensor, generator: torch.Generator | None, frame: str) -> Batch:
    """Put together the views of some states.

    Args:
        data: The data.
        states_N: Which states.
        generator: Source of randomness, of views, other states and brightness; None takes the first views as they are.
        frame: Of points and poses, ``first_view`` or ``base``.
    """
    has_objects = data.object_coordinates_NAhw4 is not None
    samples = 2 if has_objects or any(len(views) > 1 for views in data.alternatives) else 1
    views_BV = draw_views(data, len(states_N), samples, generator)
    places_B = states_N.repeat(samples)
    if has_objects:
        places_B = torch.cat((states_N, data.others(states_N, generator)))
    places_BV = places_B[:, None].expand_as(views_BV)
    images_BV3HW = data.images_NAHW3[places_BV, views_BV].permute(0, 1, 4, 2, 3).float() / 255
    cells = (data.depth_NAhw.shape[2], data.depth_NAhw.shape[3])
    colors_BV3Q = F.adaptive_avg_pool2d(images_BV3HW.flatten(0, 1), cells).unflatten(0, views_BV.shape).flatten(3)
    if generator is not None:
        factors_BV = 1 + BRIGHTNESS * (2 * torch.rand(views_BV.shape, generator=generator) - 1)
        images_BV3HW = (images_BV3HW * factors_BV[..., None, None, None]).clamp(0, 1)
    depth_BVQ = data.depth_NAhw[places_BV, views_BV].flatten(2)
    to_base_BV44 = data.extrinsics_NA44[places_BV, views_BV]
    base_BVQ3 = points_of(depth_BVQ, data.intrinsics_NA33[places_BV, views_BV], to_base_BV44, cells)
    places_BVQ4 = F.pad(base_BVQ3, (0, 1))
    if data.object_coordinates_NAhw4 is not None:
        places_BVQ4 = data.object_coordinates_NAhw4[places_BV, views_BV].flatten(2, 3)
    from_base_B44 = torch.eye(4).expand(len(views_BV), 4, 4)
    if frame == "first_view":
        from_base_B44 = torch.linalg.inv(to_base_BV44[:, 0])
    poses_BV44 = from_base_B44[:, None] @ to_base_BV44
    return Batch(
        images_BV3HW=images_BV3HW,
        colors_BVQ3=colors_BV3Q.transpose(2, 3),
        depth_BVQ=depth_BVQ,
        points_BVQ3=base_BVQ3 @ from_base_B44[:, None, :3, :3].transpose(-1, -2) + from_base_B44[:, None, None, :3, 3],
        places_BVQ4=places_BVQ4,
        weight_BVQ=balance(places_BVQ4[..., 3]),
        rotation_BV33=poses_BV44[..., :3, :3],
        translation_BV3=poses_BV44[..., :3, 3],
        states=len(states_N),
        several=tuple(role for role, views in enumerate(data.alternatives) if has_objects or len(views) > 1),
    )


def balance(bodies_BVQ: Tensor) -> Tensor:
    """Weigh cells by one over the square root of how many show the same body; 1 on average over a view.

    Args:
        bodies_BVQ: Numbers of bodies times :data:`~.data.APART_M`.
    """
    number_BVQ = (bodies_BVQ / APART_M).round().long()
    view_BV1 = torch.arange(bodies_BVQ.shape[0] * bodies_BVQ.shape[1]).view(*bodies_BVQ.shape[:2], 1)
    # Of its view and body.
    key_BVQ = view_BV1 * (number_BVQ.max() + 1) + number_BVQ
    weight_BVQ = key_BVQ.flatten().bincount()[key_BVQ].float().rsqrt()
    return weight_BVQ / weight_BVQ.mean(dim=-1, keepdim=True)
