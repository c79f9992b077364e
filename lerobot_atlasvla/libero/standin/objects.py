"""The seven things on the stand-in table.

Dimensions, masses, joints and regions follow LIBERO's libero_spatial suite, so that its task files, predicates and
fixed initial states load unchanged; shapes and colors are this project's own. Lengths in m, masses in kg, angles in
rad, in each object's body frame (z up, origin where LIBERO has it).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from lerobot_atlasvla.libero.standin.shapes import (
    add_collider,
    add_material,
    add_placement_sites,
    add_revolved_mesh,
    add_ring,
    add_texture,
    add_visual,
    new_object,
    numbers,
    set_total_mass,
)

_SMALL = {"bottom": -0.06, "top": 0.04, "radius": 0.025, "size": 0.005}
_FIXTURE = {"bottom": -0.045, "top": 0.045, "radius": 0.045, "size": 0.05}


def black_bowl() -> ET.Element:
    """Build a bowl 52 mm high and 108 mm wide whose wall, 2.5 mm thin, fits between the fingers of a gripper."""
    root, asset, body = new_object("akita_black_bowl")
    outside = [(0.0, 0.0016), (0.026, 0.0016), (0.036, 0.0075), (0.0445, 0.0175), (0.0495, 0.0345), (0.0545, 0.0525)]
    inside = [(0.0515, 0.0525), (0.047, 0.035), (0.0425, 0.0195), (0.034, 0.0105), (0.024, 0.0065), (0.0, 0.0065)]
    add_revolved_mesh(asset, "bowl", outside + inside)
    # A rim of a lighter black keeps the outline readable at 64 px, where black on black merges with the cabinet.
    rim = [(0.0546, 0.0500), (0.0555, 0.0534), (0.0505, 0.0534), (0.0505, 0.0500)]
    add_revolved_mesh(asset, "rim", rim)
    add_material(asset, "glaze", rgb=(0.045, 0.045, 0.055), shine=0.5)
    add_material(asset, "rim", rgb=(0.20, 0.20, 0.23), shine=0.5)
    add_visual(body, "mesh", mesh="bowl", material="glaze")
    add_visual(body, "mesh", mesh="rim", material="rim")
    for half in ((0.0245, 0.0155, 0.0026), (0.0155, 0.0245, 0.0026)):
        add_collider(body, "box", pos=(0, 0, 0.0042), size=half)
    add_ring(
        body,
        15,
        radius=0.0335,
        height=0.0098,
        lean=1.061,
        half_wall=0.0007,
        half_slope=0.0119,
        half_chord=0.0099,
        phase=1.57,
    )
    add_ring(
        body,
        18,
        radius=0.0471,
        height=0.0337,
        lean=0.257,
        half_wall=0.0013,
        half_slope=0.0187,
        half_chord=0.0093,
        phase=1.57,
    )
    set_total_mass(body, 0.0056)
    add_placement_sites(root, **_SMALL)
    return root


def plate() -> ET.Element:
    """Build a white plate 137 mm wide with a blue rim."""
    root, asset, body = new_object("plate")
    dish = [(0.0, 0.0), (0.034, 0.0), (0.0575, 0.0105), (0.0575, 0.0125), (0.036, 0.0048), (0.0, 0.0048)]
    rim = [(0.0575, 0.0105), (0.0685, 0.0150), (0.0685, 0.0168), (0.0575, 0.0125)]
    add_revolved_mesh(asset, "dish", dish, segments=32)
    add_revolved_mesh(asset, "rim", rim, segments=32)
    add_material(asset, "china", rgb=(0.93, 0.93, 0.91), shine=0.3)
    add_material(asset, "rim", rgb=(0.10, 0.32, 0.80), shine=0.3)
    add_visual(body, "mesh", mesh="dish", material="china")
    add_visual(body, "mesh", mesh="rim", material="rim")
    add_collider(body, "box", pos=(0, 0, 0.0031), size=(0.0285, 0.0306, 0.0030))
    # Wider than an eighth of the circle. Some fixed states drop a bowl onto the plate's edge, and where it ends depends
    # on how far the corners reach; the same goes for the bowl's rings.
    add_ring(
        body,
        8,
        radius=0.0483,
        height=0.0070,
        lean=1.190,
        half_wall=0.0025,
        half_slope=0.0191,
        half_chord=0.0285,
        phase=0.06,
    )
    set_total_mass(body, 0.0115)
    add_placement_sites(root, **_SMALL)
    return root


def ramekin() -> ET.Element:
    """Build a brown ramekin 43 mm high and 89 mm wide."""
    root, asset, body = new_object("glazed_rim_porcelain_ramekin")
    outside = [(0.0, 0.0007), (0.036, 0.0007), (0.0415, 0.0380), (0.0445, 0.0380), (0.0445, 0.0430)]
    inside = [(0.0395, 0.0430), (0.0345, 0.0085), (0.0, 0.0085)]
    add_revolved_mesh(asset, "ramekin", outside + inside)
    add_revolved_mesh(asset, "bottom", [(0.0, 0.0085), (0.0343, 0.0085), (0.0352, 0.014), (0.0, 0.0092)])
    add_material(asset, "clay", rgb=(0.52, 0.24, 0.09), shine=0.4)
    add_material(asset, "cream", rgb=(0.86, 0.72, 0.52), shine=0.2)
    add_visual(body, "mesh", mesh="ramekin", material="clay")
    add_visual(body, "mesh", mesh="bottom", material="cream")
    add_collider(body, "box", pos=(0, 0, 0.0041), size=(0.0320, 0.0180, 0.0032))
    add_collider(body, "box", pos=(0, 0, 0.0041), size=(0.0180, 0.0320, 0.0032))
    add_ring(body, 18, radius=0.0382, height=0.0217, lean=0.150, half_wall=0.0026, half_slope=0.0208)
    set_total_mass(body, 0.0097)
    add_placement_sites(root, **_SMALL)
    return root


def cookie_box() -> ET.Element:
    """Build a lying box of 62 x 83 x 19 mm."""
    root, asset, body = new_object("cookies")
    half = (0.0310, 0.0413, 0.0094)
    add_texture(asset, "print", "../../textures/cookie_box.png")
    add_material(asset, "print", texture="print", shine=0.1)
    add_visual(body, "box", size=half, material="print")
    add_collider(body, "box", size=half)
    set_total_mass(body, 0.0096)
    add_placement_sites(root, **_SMALL)
    return root


def cabinet() -> ET.Element:
    """Build a cabinet 22 cm high with three drawers that slide out by up to 16 cm along -y."""
    root, asset, body = new_object("wooden_cabinet")
    add_texture(asset, "wood", "../textures/cabinet_wood.png")
    add_material(asset, "case", texture="wood", rgb=(0.80, 0.78, 0.78), shine=0.1)
    add_material(asset, "front", texture="wood", rgb=(1.0, 1.0, 1.0), shine=0.1)
    add_material(asset, "steel", rgb=(0.72, 0.73, 0.76), shine=0.6)
    base = ET.SubElement(body, "body", name="base", pos="0 0 0")
    _region(base, "top_side", (0.0035, 0.0157, 0.2215), (0.1253, 0.0944, 0.0015))
    for center, half in (
        ((0.0040, 0.1095, 0.1139), (0.1178, 0.0023, 0.1070)),  # back
        ((0.0040, 0.0164, 0.0068), (0.1228, 0.0896, 0.0020)),  # floor
        ((-0.1122, 0.0163, 0.1143), (0.0052, 0.0954, 0.1058)),
        ((0.1190, 0.0163, 0.1143), (0.0052, 0.0954, 0.1058)),
        ((0.0039, 0.0158, 0.2216), (0.1273, 0.0941, 0.0014)),  # top
    ):
        add_collider(base, "box", pos=center, size=half)
        add_visual(base, "box", pos=center, size=half, material="case")
    for height in (0.0093, 0.0793, 0.1494):
        add_collider(base, "box", pos=(0.0039, 0.0187, height), size=(0.1117, 0.0894, 0.0009))
    # Names and order of the joints fix the meaning of LIBERO's stored simulator states.
    for level, floor in (("top", 0.1551), ("middle", 0.0854), ("bottom", 0.0168)):
        drawer = ET.SubElement(base, "body", name=f"cabinet_{level}", pos="0 0 0")
        ET.SubElement(drawer, "inertial", pos="0 0 0", mass="3", diaginertia="1 1 1")
        _joint(drawer, f"{level}_level", "slide", (0, 1, 0), (-0.16, 0.01), damping=50)
        # LIBERO measures "inside" with the region turned on its side, hence a quaternion on a plain box.
        quarter = (math.sqrt(0.5), 0, math.sqrt(0.5), 0)
        _region(drawer, f"{level}_region", (0.0033, 0.0113, floor + 0.0305), (0.0299, 0.0756, 0.1022), quarter)
        _drawer(drawer, floor)
    add_placement_sites(root, **_FIXTURE)
    return root


def _drawer(drawer: ET.Element, floor: float) -> None:
    middle = floor + 0.0284
    for center, half in (
        ((0.0033, -0.0725, middle), (0.1090, 0.0062, 0.0332)),  # front
        ((0.0033, 0.0908, middle), (0.1068, 0.0036, 0.0321)),  # back
        ((-0.1019, 0.0111, middle), (0.0024, 0.0815, 0.0315)),
        ((0.1089, 0.0111, middle), (0.0024, 0.0815, 0.0315)),
        ((0.0035, 0.0105, floor), (0.1070, 0.0810, 0.0040)),
    ):
        add_collider(drawer, "box", pos=center, size=half)
        add_visual(drawer, "box", pos=center, size=half, material="front")
    add_collider(drawer, "box", pos=(-0.0028, -0.1016, middle), size=(0.0445, 0.0082, 0.0077))
    lying = (math.sqrt(0.5), 0, math.sqrt(0.5), 0)
    add_visual(drawer, "capsule", pos=(-0.0028, -0.1016, middle), quat=lying, size=(0.0078, 0.0370), material="steel")
    for x in (-0.0356, 0.0292):
        add_collider(drawer, "box", pos=(x, -0.0835, middle), size=(0.0051, 0.0106, 0.0055))
        add_visual(drawer, "box", pos=(x, -0.0870, middle), size=(0.0045, 0.0140, 0.0045), material="steel")


def stove() -> ET.Element:
    """Build a flat stove of 19 cm with one burner and a knob that turns by up to 2.1 rad."""
    root, asset, body = new_object("flat_stove")
    add_material(asset, "enamel", rgb=(0.17, 0.18, 0.20), shine=0.4)
    add_material(asset, "iron", rgb=(0.06, 0.06, 0.065), shine=0.2)
    add_material(asset, "mark", rgb=(0.42, 0.43, 0.46), shine=0.3)
    add_material(asset, "knob", rgb=(0.85, 0.08, 0.07), shine=0.5)
    base = ET.SubElement(body, "body", name="base", pos="0 0 0")
    burner = ET.SubElement(base, "body", name="burner", pos="0.15 0 0")
    _region(burner, "cook_region", (0, 0, 0), (0.075, 0.075, 0.0025))
    add_visual(burner, "box", name="base_vis", size=(0.095, 0.095, 0.020), material="enamel")
    add_collider(burner, "box", name="base", size=(0.095, 0.095, 0.020))
    add_collider(burner, "box", name="collision_burner", pos=(0, 0, 0.025), size=(0.095, 0.095, 0.0005))
    plate = ET.SubElement(burner, "body", name="burner_plate")
    # Rings of alternating gray, each a little higher than the one around it: a disc pattern without a texture.
    for index, (radius, material) in enumerate(
        ((0.065, "iron"), (0.054, "mark"), (0.048, "iron"), (0.034, "mark"), (0.028, "iron"), (0.012, "mark"))
    ):
        half = 0.0015 + 0.0002 * index
        name = {"name": "burner"} if index == 0 else {}
        add_visual(plate, "cylinder", pos=(0, 0, 0.0205 + half), size=(radius, half), material=material, **name)
    # Glows when the knob is on; LIBERO toggles its alpha.
    ET.SubElement(
        burner, "site", name="burner", type="cylinder", pos="0 0 0.0245", size="0.0625 0.0005", rgba="0.9 0.05 0.05 1"
    )
    quarter = (math.sqrt(0.5), 0, 0, math.sqrt(0.5))
    button = ET.SubElement(base, "body", name="button", pos="0 0 0", quat=numbers(quarter))
    ET.SubElement(button, "inertial", pos="0 0 0", mass="3", diaginertia="1 1 1")
    _joint(button, "button", "hinge", (0, 0, 1), (-0.005, 2.1), damping=1)
    add_visual(button, "cylinder", pos=(0.0013, 0.0045, 0.0066), size=(0.047, 0.0062), material="iron")
    add_visual(button, "box", pos=(0.0013, 0.0045, 0.0310), size=(0.0115, 0.0440, 0.0190), material="knob")
    for turn in (0, math.pi / 4):
        turned = (math.cos(turn / 2), 0, 0, math.sin(turn / 2))
        add_collider(button, "box", pos=(0.0013, 0.0045, 0.0066), quat=turned, size=(0.0400, 0.0400, 0.0062))
    add_collider(button, "box", pos=(0.0013, 0.0045, 0.0310), size=(0.0121, 0.0470, 0.0190))
    add_placement_sites(root, **_FIXTURE)
    return root


def _joint(
    body: ET.Element, name: str, kind: str, axis: tuple[int, int, int], limits: tuple[float, float], damping: float
) -> None:
    ET.SubElement(
        body,
        "joint",
        name=name,
        type=kind,
        pos="0 0 0",
        axis=numbers(axis),
        limited="true",
        range=numbers(limits),
        damping=f"{damping}",
    )


def _region(
    body: ET.Element,
    name: str,
    center: tuple[float, float, float],
    half: tuple[float, float, float],
    quat: tuple[float, float, float, float] = (1, 0, 0, 0),
) -> None:
    ET.SubElement(
        body,
        "site",
        name=name,
        type="box",
        group="0",
        rgba="0.8 0.8 0.8 0",
        pos=numbers(center),
        quat=numbers(quat),
        size=numbers(half),
    )
