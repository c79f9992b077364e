"""Define where the experts take hold of LIBERO's objects, and where they put them down.

Heights are above a body's origin, which is the middle of a bowl's, a plate's and a bottle's underside and the middle of
cans, boxes and cartons. The numbers were measured on LIBERO's own objects; no mesh is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

RIM_RADIUS_M = 0.047
"""Radius of the rim of LIBERO's akita_black_bowl; it is 0.052 m high."""


@dataclass(frozen=True)
class Grasp:
    """Grasp of an object, fingers down.

    Attributes:
        angle_deg: Direction in which the fingers close, in degrees from world +x, counter-clockwise from above; for a
            rim, the point of the rim seen from the center.
        lift_m: How far to lift straight up before moving sideways.
        height_m: Height of the grasp above the object's origin. For a bowl, higher lets the wall slip.
        walled: Whether walls all around leave no room beside the object.
        radius_m: Distance of the grasp from the object's vertical axis: the rim's, or 0 for a grasp across the middle.
        tolerance_m: Largest error, along and across, at which to close.
        axis: The body's own axis (0, 1, 2) along which to close instead of ``angle_deg``; None for round ones.
        center_m: Where the object's vertical axis is, x and y in the body's frame; the origin of a mug is beside it.
        clearance_m: Smallest height above the grasp on the way there: what stands beside the object.
        slope: Slope of the funnel down to it; a steep one beside something tall.
    """

    angle_deg: float
    lift_m: float = 0.04
    height_m: float = 0.031
    walled: bool = False
    radius_m: float = RIM_RADIUS_M
    tolerance_m: float = 0.01
    axis: int | None = None
    center_m: tuple[float, float] = (0.0, 0.0)
    clearance_m: float = 0.0
    slope: float = 2.0


def across(height_m: float, *, axis: int | None = None, center_m: tuple[float, float] = (0.0, 0.0)) -> Grasp:
    """Return a grasp from above across the middle; wide objects leave the fingers a few millimeters on each side."""
    return Grasp(90, height_m=height_m, radius_m=0.0, tolerance_m=0.006, axis=axis, center_m=center_m)


@dataclass(frozen=True)
class Place:
    """Says where an object is to be put down, and how to carry it there.

    Attributes:
        name: Body of an object, or site of a region; the goal's own second name if empty.
        offset_m: From there to where the object's vertical axis meets its origin's height, when it has arrived; world
            frame.
        tolerance_m: Horizontal error at which to let go.
        clearance_m: Smallest height of the object's origin above that point on the way: what stands around it.
        slope: Slope of the funnel; a steep one for places with walls.
        drop: Whether to let go as soon as the object is there, before the goal is true: it falls the rest.
        angle_deg: Direction in which the fingers that hold the object across its middle are to close there, as in
            :class:`Grasp`; None if that is of no matter.
    """

    name: str = ""
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tolerance_m: float = 0.015
    clearance_m: float = 0.0
    slope: float = 2.0
    drop: bool = False
    angle_deg: float | None = None


# Cans are 63 to 66 mm wide and the fingers open to 80. The palm is 24 mm above the grip site, the tips 13 mm below.
GRASPS: Mapping[str, Grasp] = MappingProxyType(
    {
        "alphabet_soup": across(0.020),
        "tomato_sauce": across(0.020),
        "salad_dressing": across(0.045),
        "bbq_sauce": across(0.033),
        "ketchup": across(0.045),
        "milk": across(0.042),
        "orange_juice": across(0.042),
        "cream_cheese": across(0.006, axis=1),
        "wine_bottle": across(0.125),
        "butter": across(0.006, axis=1),
        "chocolate_pudding": across(0.006, axis=1),
        "black_book": across(0.115, axis=0, center_m=(0.0, -0.012)),
        # The pot is wider than the fingers open: by the knob of its lid.
        "moka_pot": across(0.082),
        # By the rim on the side away from the handle, with the palm just above it.
        "porcelain_mug": Grasp(-90, height_m=0.088, radius_m=0.0405, center_m=(0.0155, -0.001)),
        "white_yellow_mug": Grasp(90, height_m=0.083, radius_m=0.042, center_m=(-0.018, 0.0)),
    }
)
"""By kind of object: a body's name without its number."""


def kind_of(body: str) -> str:
    """Return an object's kind, ``milk`` for ``milk_1``."""
    return body.rpartition("_")[0]


# Height of the underside below the origin, where it is not the origin itself.
_BOTTOM_M = {
    "alphabet_soup": 0.038,
    "tomato_sauce": 0.038,
    "salad_dressing": 0.073,
    "bbq_sauce": 0.055,
    "ketchup": 0.072,
    "milk": 0.070,
    "orange_juice": 0.070,
    "cream_cheese": 0.009,
    "butter": 0.009,
    "chocolate_pudding": 0.013,
}
_BASKET_RIM_M = 0.084
"""Height of the basket's rim above the center of its inside."""


def basket(kind: str) -> Place:
    """Return the place in the basket for a kind of object: over the rim, and let go there."""
    over = _BASKET_RIM_M + _BOTTOM_M[kind]
    # Tall ones are let go with the underside below the rim, flat ones a little above it: the palm stays outside.
    low = _BASKET_RIM_M - 0.04 + _BOTTOM_M[kind] if _BOTTOM_M[kind] > 0.03 else _BASKET_RIM_M - 0.01
    return Place(offset_m=(0, 0, low), clearance_m=over + 0.02 - low, slope=20.0, drop=True)
