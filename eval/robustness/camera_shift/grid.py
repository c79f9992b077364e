"""The points of ``python -m eval.camera_shift``: which shifts, in which order, and where their rollouts are kept."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.common.errors import EvalError, check_output_dir
from eval.common.files import read_object
from eval.rollout.run_folder import Rollout
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift
from lerobot_atlasvla.libero.tasks import SUITE_TASKS

SCHEMA_VERSION = 1
GRID_FILE = "grid.json"
UNSHIFTED = "unshifted"
MEANINGS = {
    "right_cm": "camera moved sideways, cm; positive to its right",
    "up_cm": "camera moved along the image's vertical, cm; positive up",
    "forward_cm": "camera moved along its line of sight, cm; positive toward the scene",
    "pan_deg": "camera turned about the vertical of the world, degrees; positive looks to its right",
    "tilt_deg": "camera turned about the image's horizontal, degrees; positive looks up",
    "roll_deg": "camera turned about its line of sight, degrees; positive turns the camera clockwise",
    "azimuth_deg": "camera moved around the scene, degrees; positive counterclockwise from above",
    "elevation_deg": "camera moved over the scene, degrees; positive higher",
    "distance_percent": "camera moved away from the scene, percent of its distance; positive farther",
}
"""The directions, as :class:`CameraShift` has them; right, left and clockwise are those of the camera."""

# Folder names and cells of Markdown tables at the same time.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+-]*")


@dataclass(frozen=True)
class Point:
    """Hold one position of the scene camera.

    Attributes:
        direction: A field of :class:`CameraShift`, or ``unshifted``.
        shift: How far, in the direction's unit; 0 for ``unshifted``.
    """

    direction: str = UNSHIFTED
    shift: float = 0.0

    def __str__(self) -> str:
        return self.direction if self.direction == UNSHIFTED else f"{self.direction}={self.shift:.12g}"

    @property
    def camera_shift(self) -> CameraShift:
        """Return it as the simulator takes it."""
        return CameraShift() if self.direction == UNSHIFTED else CameraShift(**{self.direction: self.shift})


@dataclass(frozen=True)
class Grid:
    """Hold one sweep per direction, for each checkpoint; kept as ``grid.json`` beside the run folders.

    Attributes:
        command: The command that asked for it.
        labels: One per checkpoint, in the order of the report.
        sweeps: Direction to its shifts, without 0, which belongs to every sweep.
        suites: LIBERO suites.
        task_ids: Tasks of every suite; None for all.
        seeds: Seeds.
        episodes: Rollouts per task and seed.
    """

    command: str
    labels: Sequence[str]
    sweeps: Mapping[str, Sequence[float]]
    suites: Sequence[str]
    task_ids: Sequence[int] | None
    seeds: Sequence[int]
    episodes: int

    def validate(self) -> None:
        """Raise :class:`EvalError` for labels, suites or shifts that cannot be used."""
        for label in self.labels:
            if not _LABEL.fullmatch(label):
                raise EvalError(
                    f"--labels: {label!r} cannot name a folder and a column; allowed are letters, digits, spaces and "
                    ". + - after a letter or digit."
                )
        if len(set(self.labels)) < len(self.labels):
            raise EvalError(f"--labels={list(self.labels)} must all be different.")
        for suite in self.suites:
            if suite not in SUITE_TASKS:
                raise EvalError(f"--suites names {suite!r}; allowed: {', '.join(SUITE_TASKS)}.")
        for direction, shifts in self.sweeps.items():
            if 0 in shifts:
                raise EvalError(
                    f"--{direction}={list(shifts)} contains 0; leave it out: the unshifted camera is always run, once, "
                    "and belongs to every sweep."
                )
            names = [str(Point(direction, shift)) for shift in shifts]
            if len(set(names)) < len(names):
                raise EvalError(f"--{direction}={list(shifts)} names a shift twice.")
            for shift in shifts:
                try:
                    _ = Point(direction, shift).camera_shift
                except ValueError as error:
                    raise EvalError(f"The camera cannot be shifted: --{error}.") from error
        if not any(self.sweeps.values()):
            flags = ", ".join(f"--{direction}" for direction in MEANINGS)
            raise EvalError(f"No shift is asked for; give a list to one of {flags}.")

    def sweep(self, direction: str) -> list[Point]:
        """Return the points of one direction from its lowest to its highest shift, the unshifted one among them."""
        return [Point(direction, shift) if shift else Point() for shift in sorted([0.0, *self.sweeps[direction]])]

    def extremes(self) -> list[Point]:
        """Return the unshifted point, then the ends of every sweep."""
        ends = [end for direction in self.sweeps for end in (self.sweep(direction)[0], self.sweep(direction)[-1])]
        return [Point(), *(point for point in ends if point != Point())]

    def points(self) -> list[Point]:
        """Return every point once, those worth most first: unshifted, then outward in all directions."""
        return [Point(), *(point for ring in self.rings() for point in ring)]

    def rings(self) -> list[list[Point]]:
        """Return the shifted points by how far: the smallest size of every direction, then the next of each, ..."""
        rings: dict[int, list[Point]] = {}
        for direction, shifts in self.sweeps.items():
            sizes = sorted({abs(shift) for shift in shifts})
            for point in self.sweep(direction):
                if point.shift:
                    rings.setdefault(sizes.index(abs(point.shift)), []).append(point)
        return [rings[rank] for rank in sorted(rings)]

    @property
    def rollouts_per_point(self) -> int:
        """Return the number of rollouts of a checkpoint at every point."""
        tasks = sum(SUITE_TASKS[suite] if self.task_ids is None else len(self.task_ids) for suite in self.suites)
        return tasks * len(self.seeds) * self.episodes

    def asks_for(self, rollout: Rollout) -> bool:
        """Say whether a rollout is one of this grid; a run folder may hold more from an earlier, larger one."""
        return (
            rollout.suite in self.suites
            and (self.task_ids is None or rollout.task_id in self.task_ids)
            and rollout.seed in self.seeds
            and rollout.init_state < self.episodes
        )


def run_path(output_dir: Path, label: str, point: Point) -> Path:
    """Run folder of one point of one checkpoint."""
    return output_dir / label / str(point)


def view_path(output_dir: Path, point: Point) -> Path:
    """Return the file of the scene camera's image at one point."""
    # No label begins with an underscore.
    return output_dir / "_views" / f"{point}.png"


def write_grid(grid: Grid, output_dir: Path) -> None:
    """Write ``grid.json``, whole or not at all.

    Raises:
        EvalError: If the folder holds something else than a grid.
    """
    check_output_dir(output_dir, GRID_FILE, "grid")
    write_text(output_dir / GRID_FILE, json.dumps({"schema_version": SCHEMA_VERSION} | asdict(grid), indent=1) + "\n")


def read_grid(output_dir: Path) -> Grid:
    """Read the camera positions and settings from a folder's ``grid.json``.

    Raises:
        EvalError: If the folder has none, or one of another version.
    """
    file = output_dir / GRID_FILE
    if not file.is_file():
        raise EvalError(f"--output_dir={output_dir} is not a folder of eval.camera_shift: it has no {GRID_FILE}.")
    content = read_object(file, "eval.camera_shift")
    if (version := content.pop("schema_version", None)) != SCHEMA_VERSION:
        raise EvalError(f"{file} has schema version {version}; this is version {SCHEMA_VERSION}.")
    try:
        grid = Grid(**content)
        grid.validate()
    # Of other types than a grid has.
    except (TypeError, AttributeError) as error:
        raise EvalError(f"{file} is not what eval.camera_shift writes: {error!r}.") from error
    return grid
