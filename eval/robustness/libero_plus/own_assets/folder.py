"""A folder with LIBERO-Plus's own assets: what a task needs of it, checked before anything is simulated."""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import Catalog
from eval.robustness.libero_plus.own_assets.added_object import AddedObject
from eval.robustness.libero_plus.own_assets.arena import Arena
from eval.robustness.libero_plus.own_assets.package_code import arena_files, object_files
from eval.robustness.libero_plus.tasks import PlusTask
from lerobot_atlasvla.utils.errors import first_line

_PARTS = ("scenes", "textures")
# Of LIBERO's scenes, which its arenas give the chosen texture.
_FLOOR, _WALL = "texplane", "tex-wall"


@dataclass(frozen=True)
class PlusAssets:
    """Find the files of tasks in a folder.

    Attributes:
        folder: As ``assets`` in LIBERO-Plus's ``assets.zip``.
    """

    folder: Path

    def check(self) -> None:
        """Raise :class:`EvalError` if the folder is something else."""
        if lacking := [part for part in _PARTS if not (self.folder / part).is_dir()]:
            raise EvalError(
                f"--plus_assets={self.folder} is not the folder of LIBERO-Plus's assets: it lacks "
                f"{' and '.join(lacking)}. Unpack assets.zip of the dataset Sylvest/LIBERO-plus and name its folder "
                "assets."
            )

    def arena(self, task: PlusTask, catalog: Catalog) -> Arena:
        """Return the scene of a task of light or background.

        Raises:
            EvalError: If a file is missing, or the scene's can't be read.
        """
        problem = re.search(r"\(\s*problem\s+([^\s()]+)", catalog.description(task))
        if problem is None:
            raise EvalError(f"{catalog.data.where}: the description of {task.name} names no scene.")
        scene, floor, wall = arena_files(catalog.data, problem[1].lower())
        self._check_files(self.folder / scene, task.name, ((_FLOOR, floor), (_WALL, wall)))
        return Arena((self.folder / scene).absolute(), floor, wall)

    def objects(self, task: PlusTask, catalog: Catalog) -> tuple[AddedObject, ...]:
        """Return the kinds of objects of an ``_add`` task that LIBERO does not have.

        Raises:
            EvalError: If a file is missing or can't be read.
        """
        known = object_files(catalog.data)
        found = re.search(r"\(\s*:objects\b([^()]*)\)", catalog.description(task))
        kinds = sorted(set(re.findall(r"-\s+(\S+)", found[1] if found else "")) & set(known))
        for kind in kinds:
            self._check_files(self.folder / known[kind], task.name)
        return tuple(AddedObject(kind, (self.folder / known[kind]).absolute()) for kind in kinds)

    def _check_files(self, file: Path, task: str, textures: tuple[tuple[str, str], ...] = ()) -> None:
        for needed in _files_of(file, textures):
            if not needed.is_file():
                raise EvalError(
                    f"--plus_assets={self.folder} lacks {needed}, which {task} needs; unpack assets.zip again, or "
                    "leave its category out."
                )


@cache
def _files_of(file: Path, textures: tuple[tuple[str, str], ...]) -> tuple[Path, ...]:
    """Return a scene's or object's XML file and all files that it names.

    Args:
        file: The XML file.
        textures: Textures by name that are replaced by another file in the same folder.
    """
    if not file.is_file():
        return (file,)
    try:
        root = ET.parse(file).getroot()
    except (ET.ParseError, OSError, ValueError) as error:
        raise EvalError(
            f"--plus_assets: {file} cannot be read ({first_line(error)}); unpack assets.zip again."
        ) from error
    chosen = dict(textures)
    named = []
    for element in root.iter():
        if (path := element.get("file")) is not None:
            # As robosuite, which takes every path from the folder of the XML file.
            found = file.parent / path
            replaced = chosen.get(element.get("name", "")) if element.tag == "texture" else None
            named.append(found.with_name(replaced) if replaced else found)
    return (file, *named)
