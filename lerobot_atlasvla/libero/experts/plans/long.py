"""``libero_10``: long tasks in eight scenes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lerobot_atlasvla.libero.experts.articulated import CloseDrawer, TurnKnob
from lerobot_atlasvla.libero.experts.grasps import GRASPS, Grasp, Place, basket
from lerobot_atlasvla.libero.experts.microwave import CloseDoor, SetInside
from lerobot_atlasvla.libero.experts.plan import Pick, Plan


def _both(one: str, other: str) -> Plan:
    return Pick(GRASPS[one], basket(one), goal=0), Pick(GRASPS[other], basket(other), goal=1)


# Two pots side by side on the burner, the first one nearer to the robot; the second comes down beside it.
_POT_APART_M = 0.052


def _pot(x: float = 0.0, *, clearance_m: float = 0.0, goal: int) -> Pick:
    place = Place(offset_m=(x, 0, 0.085), tolerance_m=0.012, clearance_m=clearance_m, slope=8.0)
    return Pick(GRASPS["moka_pot"], place, goal=goal)


PLANS: dict[str, Plan] = {
    "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket": _both(
        "alphabet_soup", "tomato_sauce"
    ),
    "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket": (
        Pick(GRASPS["butter"], basket("butter"), goal=1),
        # From above and by the end that is away from the milk carton, or the palm knocks the carton over.
        Pick(
            replace(GRASPS["cream_cheese"], center_m=(-0.032, 0.0), clearance_m=0.15, slope=12.0),
            basket("cream_cheese"),
            goal=0,
        ),
    ),
    "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it": (
        partial(TurnKnob, stove="flat_stove_1"),
        _pot(goal=1),
    ),
    "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it": (
        # Away from the handles of the drawers above, under which the palm has to come.
        Pick(
            Grasp(0, height_m=0.036),
            Place(offset_m=(0, -0.023, -0.012), tolerance_m=0.02, clearance_m=0.10, slope=8.0),
            goal=1,
        ),
        partial(CloseDrawer, region="white_cabinet_1_bottom_region"),
    ),
    "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate": (
        Pick(GRASPS["porcelain_mug"], Place(), goal=0),
        Pick(GRASPS["white_yellow_mug"], Place(), goal=1),
    ),
    "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy": (
        Pick(
            GRASPS["black_book"],
            Place(
                offset_m=(0.0105, -0.003, -0.050),
                tolerance_m=0.005,
                clearance_m=0.155,
                slope=20.0,
                drop=True,
                angle_deg=0,
            ),
        ),
    ),
    "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate": (
        # The mug would be in the hand's way beside the plate.
        Pick(GRASPS["chocolate_pudding"], Place(offset_m=(0, 0.015, 0.013)), goal=1),
        Pick(GRASPS["porcelain_mug"], Place(), goal=0),
    ),
    "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket": _both(
        "alphabet_soup", "cream_cheese"
    ),
    "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove": (
        _pot(-_POT_APART_M, goal=0),
        _pot(_POT_APART_M, clearance_m=0.16, goal=1),
    ),
    "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it": (
        partial(SetInside, goal=("in", "white_yellow_mug_1", "microwave_1_heating_region")),
        partial(CloseDoor, microwave="microwave_1"),
    ),
}
