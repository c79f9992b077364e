"""Read what LIBERO-Plus's package says about its own assets: classes of scenes and objects, as text, never run.

A task of light or background names a class of scene in its description, which differs from the base task's in nothing
else; the class says which scene file and which styles of floor and wall are used. A kind of object is a class, too,
that says where its file is.
"""

import ast
import re
from functools import cache

from eval.common.errors import EvalError
from eval.robustness.libero_plus.perturbations.camera import SCENES
from eval.robustness.package_data import PackageData

_ENVS = "liberoplus/liberoplus/envs/"
_STYLES = f"{_ENVS}arenas/style.py"
_OBJECTS = f"{_ENVS}objects/custom_objects.py"


@cache
def arena_files(data: PackageData, problem: str) -> tuple[str, str, str]:
    """Return the files of a scene: scene relative to the assets, names of the floor's and the wall's texture.

    Args:
        data: The package.
        problem: Class of the scene, lower case.

    Raises:
        EvalError: If the package has no such class, or the class names no files.
    """
    classes = _scene_classes(data)
    found: dict[str, str] = {}
    name = problem
    while name in classes:
        base, body = classes[name]
        for part in ("scene_xml", "floor_style", "wall_style"):
            if part not in found and (value := re.search(rf'"{part}": *"([^"]+)"', body)):
                found[part] = value[1]
        name = base
    styles = _styles(data)
    try:
        textures = (styles["FLOOR_STYLE"][found["floor_style"]], styles["WALL_STYLE"][found["wall_style"]])
        return found["scene_xml"], *textures
    except KeyError as error:
        raise EvalError(
            f"{data.where} does not say which files the scene {problem} has: {error} is missing."
        ) from error


@cache
def object_files(data: PackageData) -> dict[str, str]:
    """Return the files of the added kinds of objects, relative to the assets, by what descriptions call them.

    Raises:
        EvalError: If the package is damaged.
    """
    found = {}
    for name, _, body in _classes(data.text_of(_OBJECTS)):
        # As LIBERO's register_object.
        kind = "_".join(re.sub(r"([A-Z0-9])", r" \1", name).split()).lower()
        if file := re.search(r'"assets/([^"]+\.xml)"', body):
            found[kind] = file[1]
    return found


@cache
def _scene_classes(data: PackageData) -> dict[str, tuple[str, str]]:
    """Return lower-case name of the base class and text of every class of scenes, by its lower-case name."""
    return {
        name.lower(): (base.lower(), body)
        for problem in SCENES
        for name, base, body in _classes(data.text_of(f"{_ENVS}problems/{problem}.py"))
    }


def _classes(text: str) -> list[tuple[str, str, str]]:
    parts = re.split(r"(?m)^class (\w+)\((\w+)\):", text)
    return list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))


@cache
def _styles(data: PackageData) -> dict[str, dict[str, str]]:
    try:
        tree = ast.parse(data.text_of(_STYLES))
        return {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in ("FLOOR_STYLE", "WALL_STYLE")
        }
    except (SyntaxError, ValueError) as error:
        raise EvalError(f"{data.where}: {_STYLES} holds no styles ({error}).") from error
