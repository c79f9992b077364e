"""LIBERO-Plus's lamps, tables, walls and floors: another scene file, and other textures of floor and wall."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OWN = "atlasvla_own_arena"


@dataclass(frozen=True)
class Arena:
    """Name the files of a scene without its things.

    Attributes:
        scene: The scene's XML file.
        floor: Name of the floor's texture, beside the one that the scene file names.
        wall: The same of the wall.
    """

    scene: Path
    floor: str
    wall: str


def use_arena(control: Any, arena: Arena | None) -> None:
    """Have the next hard reset of LIBERO's ``ControlEnv`` build this arena, or its own one again for None."""
    from libero.libero.envs.arenas.style import STYLE_MAPPING

    domain = control.env
    own = vars(control).setdefault(_OWN, (domain._arena_xml, domain._arena_properties))
    domain._arena_xml, domain._arena_properties = own
    if arena is None:
        return
    properties = {}
    for part, texture in (("floor", arena.floor), ("wall", arena.wall)):
        # LIBERO's arenas take names of styles only; this one is none of its own.
        style = f"libero-plus {texture}"
        STYLE_MAPPING[part][style] = texture
        properties[f"{part}_style"] = style
    domain._arena_xml, domain._arena_properties = str(arena.scene), properties
