"""``libero_spatial``: "pick up the black bowl <somewhere> and place it on the plate"."""

from __future__ import annotations

from lerobot_atlasvla.libero.experts.grasps import Grasp, Place
from lerobot_atlasvla.libero.experts.plan import Pick, Plan

# The fingers open along world y when the wrist is straight, so +-90 degrees needs no wrist rotation and is the first
# choice; the sign is the side on which no neighbor stands. Drawer and cabinet leave room only at the angles given, and
# the bowl has to clear the drawer's walls before it moves sideways; a deeper grasp would touch the drawer's floor.
_GRASP_BY_PLACE = {
    "between_the_plate_and_the_ramekin": Grasp(-90),
    "next_to_the_ramekin": Grasp(90),
    "from_table_center": Grasp(90),
    "on_the_cookie_box": Grasp(90),
    "in_the_top_drawer_of_the_wooden_cabinet": Grasp(-25, lift_m=0.10, height_m=0.036, walled=True),
    "on_the_ramekin": Grasp(-90),
    "next_to_the_cookie_box": Grasp(90),
    "on_the_stove": Grasp(90),
    "next_to_the_plate": Grasp(-90),
    "on_the_wooden_cabinet": Grasp(180),
}
PLANS: dict[str, Plan] = {
    f"pick_up_the_black_bowl_{place}_and_place_it_on_the_plate": (Pick(grasp, Place()),)
    for place, grasp in _GRASP_BY_PLACE.items()
}
