"""``libero_goal``: one scene, ten goals."""

from __future__ import annotations

from functools import partial

from lerobot_atlasvla.libero.experts.articulated import OpenDrawer, TurnKnob
from lerobot_atlasvla.libero.experts.grasps import GRASPS, Grasp, Place
from lerobot_atlasvla.libero.experts.plan import Pick, Plan
from lerobot_atlasvla.libero.experts.pushing import PushPlate
from lerobot_atlasvla.libero.experts.rack import LayOnRack

# On the side away from the robot nothing stands. To its left is the cream cheese, and to its right are the cabinet's
# handles, which the palm runs into when the bowl is displaced toward them.
_BOWL = Grasp(0)
_CABINET = "wooden_cabinet_1"

PLANS: dict[str, Plan] = {
    "open_the_middle_drawer_of_the_cabinet": (partial(OpenDrawer, region=f"{_CABINET}_middle_region"),),
    "put_the_bowl_on_the_stove": (Pick(_BOWL, Place()),),
    "put_the_wine_bottle_on_top_of_the_cabinet": (Pick(GRASPS["wine_bottle"], Place()),),
    "open_the_top_drawer_and_put_the_bowl_inside": (
        # The open drawer hangs over the bowl's place, so the bowl goes out of its way first.
        Pick(
            _BOWL,
            Place("main_table_akita_black_bowl_region", offset_m=(-0.05, 0.05, 0.003), tolerance_m=0.02),
            aside="akita_black_bowl_1",
        ),
        partial(OpenDrawer, region=f"{_CABINET}_top_region"),
        # By the rim nearest to the robot: from the drawer's side, the way down may be behind the drawer's handle.
        Pick(Grasp(180, height_m=0.036), Place(offset_m=(-0.01, 0.012, 0), clearance_m=0.10, slope=8.0)),
    ),
    "put_the_bowl_on_top_of_the_cabinet": (Pick(_BOWL, Place()),),
    "push_the_plate_to_the_front_of_the_stove": (
        # Around the cream cheese.
        partial(
            PushPlate,
            goal=("on", "plate_1", "main_table_stove_front_region"),
            legs=((0.11, 0.04), (0.015, 0.025)),
        ),
    ),
    "put_the_cream_cheese_in_the_bowl": (Pick(GRASPS["cream_cheese"], Place(offset_m=(0, 0, 0.03))),),
    "turn_on_the_stove": (partial(TurnKnob, stove="flat_stove_1"),),
    # Turned away from the cabinet's handles, which the palm would run into beside the plate.
    "put_the_bowl_on_the_plate": (Pick(Grasp(135), Place()),),
    "put_the_wine_bottle_on_the_rack": (
        # Beside the rack's post, on the side from which the hand comes.
        partial(LayOnRack, goal=("on", "wine_bottle_1", "wine_rack_1_top_region"), aside_m=0.06),
    ),
}
