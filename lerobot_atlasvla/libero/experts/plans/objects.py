"""``libero_object``: one thing out of six on the floor goes into the basket."""

from __future__ import annotations

from lerobot_atlasvla.libero.experts.grasps import GRASPS, basket
from lerobot_atlasvla.libero.experts.plan import Pick, Plan

PLANS: dict[str, Plan] = {
    f"pick_up_the_{kind}_and_place_it_in_the_basket": (Pick(GRASPS[kind], basket(kind)),)
    for kind in (
        "alphabet_soup",
        "cream_cheese",
        "salad_dressing",
        "bbq_sauce",
        "ketchup",
        "tomato_sauce",
        "butter",
        "milk",
        "chocolate_pudding",
        "orange_juice",
    )
}
