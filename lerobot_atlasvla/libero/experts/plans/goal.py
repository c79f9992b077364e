"""``libero_goal``: one scene, ten goals."""

from __future__ import annotations

from lerobot_atlasvla.libero.experts.articulated import OpenDrawer, PushPlate, TurnKnob
from lerobot_atlasvla.libero.experts.grasps import GRASPS, Grasp, Place
from lerobot_atlasvla.libero.experts.plan import Pick, Plan

# On this side of the bowl nothing stands; on the other, the cream cheese.
_BOWL = Grasp(-90)
_CABINET = "wooden_cabinet_1"

PLANS: dict[str, Plan] = {
    "open_the_middle_drawer_of_the_cabinet": (lambda env: OpenDrawer(env, f"{_CABINET}_middle_region"),),
    "put_the_bowl_on_the_stove": (Pick(_BOWL, Place()),),
    "put_the_wine_bottle_on_top_of_the_cabinet": (Pick(GRASPS["wine_bottle"], Place()),),
    "open_the_top_drawer_and_put_the_bowl_inside": (
        lambda env: OpenDrawer(env, f"{_CABINET}_top_region"),
        Pick(_BOWL, Place(clearance_m=0.12, slope=8.0)),
    ),
    "put_the_bowl_on_top_of_the_cabinet": (Pick(_BOWL, Place()),),
    "push_the_plate_to_the_front_of_the_stove": (
        lambda env: PushPlate(env, ("on", "plate_1", "main_table_stove_front_region")),
    ),
    "put_the_cream_cheese_in_the_bowl": (Pick(GRASPS["cream_cheese"], Place(offset_m=(0, 0, 0.03))),),
    "turn_on_the_stove": (lambda env: TurnKnob(env, "flat_stove_1"),),
    "put_the_bowl_on_the_plate": (Pick(_BOWL, Place()),),
}
