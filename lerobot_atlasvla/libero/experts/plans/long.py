"""``libero_10``: long tasks in eight scenes, of which the expert knows those with a basket."""

from __future__ import annotations

from lerobot_atlasvla.libero.experts.grasps import GRASPS, basket
from lerobot_atlasvla.libero.experts.plan import Pick, Plan


def _both(one: str, other: str) -> Plan:
    return Pick(GRASPS[one], basket(one), goal=0), Pick(GRASPS[other], basket(other), goal=1)


PLANS: dict[str, Plan | None] = {
    "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket": _both(
        "alphabet_soup", "tomato_sauce"
    ),
    "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket": None,
    "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it": None,
    "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it": None,
    "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate": None,
    "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy": None,
    "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate": None,
    "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket": _both(
        "alphabet_soup", "cream_cheese"
    ),
    "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove": None,
    "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it": None,
}
