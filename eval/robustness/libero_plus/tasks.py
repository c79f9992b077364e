"""Read what a task of LIBERO-Plus is off its name: every perturbation but the layouts is encoded there.

``BASE_view_AZIMUTH_ELEVATION_SCALE_ROTATION_TILT_initstate_ROBOT``, with ``_language_NUMBER`` before ``_view`` or
``_noise_NUMBER`` at the end; ``BASE_level1_sample2`` and ``BASE_moved_level1_sample2`` for layouts; ``BASE_add_3``,
``BASE_light_3``, ``BASE_table_3`` and ``BASE_tb_3`` for what needs other assets.
"""

import re
from dataclasses import dataclass

from eval.common.errors import EvalError

CATEGORIES = ("camera", "robot", "language", "noise", "layout")
"""Categories that LIBERO's own assets suffice for; of ``layout`` the ``_level`` tasks only."""
NEEDS_ASSETS = {
    "light": "scenes with other lamps",
    "background": "scenes with other tables and walls",
    "layout_add": "objects that LIBERO does not have",
}
"""Categories that need LIBERO-Plus's own assets (6.4 GB), and why."""
ALL_CATEGORIES = (*CATEGORIES, *NEEDS_ASSETS)
LABELS = {"layout": "layout (level only)", "layout_add": "layout (added objects only)"}
"""What reports call a category, where that is not its name."""

_NAME = re.compile(
    r"(?P<base>.+?)"
    r"(?:(?:_language_(?P<language>\d+))?"
    r"_view_(?P<azimuth>-?\d+)_(?P<elevation>-?\d+)_(?P<scale>\d+)_(?P<rotation>-?\d+)_(?P<tilt>-?\d+)"
    r"_initstate_(?P<robot>\d+)(?:_noise_(?P<noise>\d+))?"
    r"|_(?P<other>add|light|table|tb)_\d+"
    r"|(?P<layout>(?:_moved)?_level\d+_sample\d+))"
)


@dataclass(frozen=True)
class CameraView:
    """Say how LIBERO-Plus moves the scene camera.

    Attributes:
        azimuth_deg: Turn of position and view about the world's vertical, degrees.
        elevation_deg: Turn about a horizontal axis through the table, degrees.
        scale_percent: Distance from a point above the table, percent of the original.
        rotation_deg: Turn of the view alone about the world's vertical, degrees.
        tilt_deg: Turn of the view alone about the world's y, degrees.
    """

    azimuth_deg: int = 0
    elevation_deg: int = 0
    scale_percent: int = 100
    rotation_deg: int = 0
    tilt_deg: int = 0


UNMOVED = CameraView()
"""LIBERO's own view."""


@dataclass(frozen=True)
class PlusTask:
    """Describe one task of LIBERO-Plus.

    Attributes:
        suite: LIBERO suite of its base task.
        number: Its number in LIBERO-Plus's order, from 1, within the suite.
        name: Its name there.
        base: Name of the base task.
        category: One of :data:`CATEGORIES` or a key of :data:`NEEDS_ASSETS`.
        view: Where the scene camera is.
        robot: Number of the arm's posture; 0 for LIBERO's own.
        noise: Number of the image corruption; 0 for none.
        paraphrase: Number of the rephrased instruction; 0 for none.
        level: Difficulty, 1 to 5; None if not known.
    """

    suite: str
    number: int
    name: str
    base: str
    category: str
    view: CameraView = UNMOVED
    robot: int = 0
    noise: int = 0
    paraphrase: int = 0
    level: int | None = None


def parse_task(suite: str, number: int, name: str) -> PlusTask:
    """Read a task's perturbation off its name.

    Raises:
        EvalError: If it is not of LIBERO-Plus's form.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise EvalError(f"{name} is not the name of a task of LIBERO-Plus, such as BASE_view_15_0_100_0_0_initstate_0.")
    base = found["base"]
    if found["other"]:
        category = {"add": "layout_add", "light": "light"}.get(found["other"], "background")
        return PlusTask(suite, number, name, base, category)
    if found["layout"]:
        return PlusTask(suite, number, name, base, "layout")
    names = ("azimuth", "elevation", "scale", "rotation", "tilt")
    view = CameraView(*(int(found[part]) for part in names))
    robot, noise, paraphrase = (int(found[part] or 0) for part in ("robot", "noise", "language"))
    kinds = {"language": paraphrase, "noise": noise, "robot": robot}
    category = next((kind for kind, number in kinds.items() if number), "camera")
    return PlusTask(suite, number, name, base, category, view, robot, noise, paraphrase)
