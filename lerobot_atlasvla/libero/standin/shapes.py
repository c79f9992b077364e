"""MJCF elements of the stand-in scene: primitive geoms, rings of boxes and surfaces of revolution."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

# LIBERO tells geoms apart by group: 0 collides and is hidden from cameras, 1 is drawn and collides with nothing.
_COLLISION_GROUP = "0"
_VISUAL_GROUP = "1"
# As stiff and grippy as LIBERO's household objects, whose fixed states assume these resting heights, but overdamped:
# some of those states start with a bowl inside the plate's edge, which critical damping flings across the table.
_CONTACT = {"solref": "0.001 2", "solimp": "0.998 0.998 0.001", "friction": "0.95 0.3 0.1"}

Vector = Sequence[float]


def numbers(values: Iterable[float]) -> str:
    """Format numbers as an MJCF attribute."""
    return " ".join(f"{value:.6g}" for value in values)


def add_visual(parent: ET.Element, shape: str, **attributes: str | Vector) -> ET.Element:
    """Add a geom that is drawn and never touched.

    Args:
        parent: Body to add to.
        shape: MuJoCo geom type.
        **attributes: MJCF attributes; sequences of numbers are formatted. Lengths in m.
    """
    return _add_geom(
        parent, shape, {"group": _VISUAL_GROUP, "contype": "0", "conaffinity": "0", "mass": "0"}, attributes
    )


def add_collider(parent: ET.Element, shape: str, **attributes: str | Vector) -> ET.Element:
    """Add a geom that is touched and never drawn.

    Args:
        parent: Body to add to.
        shape: MuJoCo geom type.
        **attributes: MJCF attributes; sequences of numbers are formatted. Lengths in m, masses in kg.
    """
    return _add_geom(parent, shape, {"group": _COLLISION_GROUP, "rgba": "0.8 0.8 0.8 0.3"} | _CONTACT, attributes)


def _add_geom(parent: ET.Element, shape: str, base: dict[str, str], attributes: dict[str, str | Vector]) -> ET.Element:
    text = {key: value if isinstance(value, str) else numbers(value) for key, value in attributes.items()}
    return ET.SubElement(parent, "geom", {"type": shape} | base | text)


def add_ring(
    parent: ET.Element,
    count: int,
    radius: float,
    height: float,
    lean: float,
    half_wall: float,
    half_slope: float,
    half_chord: float | None = None,
    phase: float = 0.0,
) -> None:
    """Add a closed ring of leaning boxes: the wall of a bowl.

    Args:
        parent: Body to add to; the ring's axis is its z axis.
        count: Number of boxes.
        radius: Distance of the boxes' centers from the axis, m.
        height: Height of the boxes' centers, m.
        lean: Angle of the wall with the axis, rad; positive opens upwards.
        half_wall: Half of the wall's thickness, m.
        half_slope: Half of the wall's length along its slope, m.
        half_chord: Half of a box's width around the ring, m; by default the boxes' centers just close the ring.
        phase: Direction of the first box, rad.
    """
    half_chord = half_chord or radius * math.tan(math.pi / count)
    for index in range(count):
        turn = phase + 2 * math.pi * index / count
        cos_turn, sin_turn = math.cos(turn / 2), math.sin(turn / 2)
        cos_lean, sin_lean = math.cos(lean / 2), math.sin(lean / 2)
        add_collider(
            parent,
            "box",
            pos=(radius * math.cos(turn), radius * math.sin(turn), height),
            quat=(cos_turn * cos_lean, -sin_turn * sin_lean, cos_turn * sin_lean, sin_turn * cos_lean),
            size=(half_wall, half_chord, half_slope),
        )


def set_total_mass(body: ET.Element, mass: float) -> None:
    """Spread a mass over a body's box colliders in proportion to their volumes.

    Args:
        body: Body whose direct geoms are shared over.
        mass: Total, kg.
    """
    colliders = [geom for geom in body.findall("geom") if geom.get("group") == _COLLISION_GROUP]
    volumes = [8 * math.prod(float(half) for half in geom.get("size", "").split()) for geom in colliders]
    for geom, volume in zip(colliders, volumes, strict=True):
        geom.set("mass", f"{mass * volume / sum(volumes):.6g}")


def add_revolved_mesh(asset: ET.Element, name: str, profile: Sequence[tuple[float, float]], segments: int = 24) -> None:
    """Add a mesh swept by turning a profile around the z axis.

    Args:
        asset: MJCF ``asset`` element.
        name: Name of the mesh.
        profile: Closed outline as (radius, height) points in m, counter-clockwise with the axis on the left. Points on
            the axis have radius 0.
        segments: Steps of the sweep; few, because software GL pays for every vertex.
    """
    vertices: list[tuple[float, float, float]] = []
    rings: list[list[int]] = []
    for radius, height in profile:
        steps = segments if radius > 0 else 1
        rings.append([len(vertices) + step for step in range(steps)])
        for step in range(steps):
            turn = 2 * math.pi * step / segments
            vertices.append((radius * math.cos(turn), radius * math.sin(turn), height))
    faces: list[tuple[int, int, int]] = []
    for lower, upper in zip(rings, rings[1:] + rings[:1], strict=True):
        for step in range(segments):
            after = step + 1
            a, b = lower[step % len(lower)], lower[after % len(lower)]
            c, d = upper[step % len(upper)], upper[after % len(upper)]
            faces += [face for face in ((a, b, d), (a, d, c)) if len(set(face)) == 3]
    ET.SubElement(
        asset,
        "mesh",
        name=name,
        vertex=numbers(value for vertex in vertices for value in vertex),
        face=" ".join(str(index) for face in faces for index in face),
    )


def add_material(
    asset: ET.Element,
    name: str,
    *,
    texture: str | None = None,
    rgb: Vector = (1, 1, 1),
    shine: float = 0.2,
    glow: float = 0.0,
) -> None:
    """Add a material without reflections: a reflective one makes MuJoCo draw the scene once more.

    Args:
        asset: MJCF ``asset`` element.
        name: Name of the material.
        texture: Name of its texture.
        rgb: Color in [0, 1], multiplied with the texture.
        shine: Specular strength in [0, 1].
        glow: Share of its color that it shows without light, in [0, 1].
    """
    material = ET.SubElement(
        asset,
        "material",
        name=name,
        rgba=numbers((*rgb, 1)),
        specular=f"{shine}",
        shininess="0.3",
        reflectance="0",
        emission=f"{glow}",
    )
    if texture is not None:
        material.set("texture", texture)
        material.set("texuniform", "false")


def add_texture(asset: ET.Element, name: str, file: str) -> None:
    """Add a 2-D texture read from a file, relative to the MJCF file."""
    ET.SubElement(asset, "texture", name=name, type="2d", file=file)


def new_object(name: str) -> tuple[ET.Element, ET.Element, ET.Element]:
    """Start an object the way LIBERO reads it: an unnamed body around a body called ``object``.

    Args:
        name: Name of the model.

    Returns:
        The document, its ``asset`` element and the ``object`` body.
    """
    root = ET.Element("mujoco", model=name)
    # A stand-alone load then has the same masses as in robosuite's world, which counts colliders only.
    ET.SubElement(root, "compiler", angle="radian", inertiagrouprange="0 0")
    asset = ET.SubElement(root, "asset")
    outer = ET.SubElement(ET.SubElement(root, "worldbody"), "body")
    return root, asset, ET.SubElement(outer, "body", name="object")


def add_placement_sites(root: ET.Element, bottom: float, top: float, radius: float, size: float) -> None:
    """Add the three sites LIBERO's placement samplers read.

    Args:
        root: Document started by `new_object`.
        bottom: Height of the lowest point assumed when placing, m, in the object's frame.
        top: Height of the highest point assumed, m.
        radius: x and y of the point that gives the footprint's radius, m.
        size: Radius of the (invisible) markers, m.
    """
    outer = root.find("./worldbody/body")
    assert outer is not None
    for name, position in (
        ("bottom_site", (0, 0, bottom)),
        ("top_site", (0, 0, top)),
        ("horizontal_radius_site", (radius, radius, 0)),
    ):
        ET.SubElement(outer, "site", name=name, pos=numbers(position), size=f"{size}", rgba="0 0 0 0")
