"""Read the run folders of the grid of ``eval.camera_shift``, count and compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.former_flags import flag_of
from eval.common.statistics import format_rate, newcombe_difference
from eval.report.data import counts
from eval.robustness.camera_shift.grid import MEANINGS, Grid, Point, read_grid, run_path
from eval.rollout.plan import OF_THE_FILES, comparable, same_simulator
from eval.rollout.run_folder import RUN_FILE, Run, read_run

OF_A_POLICY = ("n_action_steps", "temporal_ensemble_coeff", "cameras", "threads", "fast_render")
"""Settings that may differ between the checkpoints of a plot: how each is asked, and what moves no result by itself."""
OF_SIMULATOR = "simulator's "

Counts = tuple[int, int]
"""(successes, rollouts)"""


@dataclass(frozen=True)
class Results:
    """Hold what there is of a grid.

    Attributes:
        grid: What was asked for.
        output_dir: Folder of the grid.
        runs: Label to point to its run, with the rollouts that the grid asks for; points not begun are missing.
    """

    grid: Grid
    output_dir: Path
    runs: Mapping[str, Mapping[Point, Run]]

    def finished(self, label: str) -> dict[Point, Counts]:
        """Return the points that have all their rollouts: part of a point's rollouts would not be typical of it."""
        return {
            point: counts(run.rollouts)
            for point, run in self.runs[label].items()
            if len(run.rollouts) == self.grid.rollouts_per_point
        }

    def total(self, label: str) -> Counts:
        """Return the numbers of successes and rollouts over all finished points."""
        finished = self.finished(label).values()
        return sum(successes for successes, _ in finished), sum(rollouts for _, rollouts in finished)

    def first_total(self) -> str:
        """Return the result of the first checkpoint, for example ``19/20 = 95.0 % [76.4, 99.1]``."""
        return format_rate(*self.total(self.grid.labels[0]))

    def common(self) -> list[Point]:
        """Return the shifted points that all checkpoints have finished."""
        finished = [self.finished(label) for label in self.grid.labels]
        return [point for point in self.grid.points()[1:] if all(point in of_label for of_label in finished)]

    def together(self, label: str, points: Sequence[Point]) -> Counts | None:
        """Return the numbers of successes and rollouts over those of the points that all checkpoints have finished.

        Returns:
            Them; None if there is no such point.
        """
        of_points = [self.finished(label)[point] for point in points if point in self.common()]
        if not of_points:
            return None
        return sum(successes for successes, _ in of_points), sum(rollouts for _, rollouts in of_points)

    def difference(self, point: Point) -> tuple[float, float, float] | None:
        """Return the first two checkpoints' difference, with interval; None unless both have finished the point."""
        of_two = [self.finished(label).get(point) for label in self.grid.labels[:2]]
        if len(of_two) < 2 or of_two[0] is None or of_two[1] is None:
            return None
        return newcombe_difference(*of_two[0], *of_two[1])

    def verdict(self, difference: tuple[float, float, float]) -> str:
        """Say the difference in a word or two."""
        _, low, high = difference
        if low <= 0 <= high:
            return "noise"
        return f"{self.grid.labels[0 if low > 0 else 1]} ahead"

    def incomplete(self) -> list[str]:
        """Return the checkpoints that lack points, such as ``8 of 11 points of ACT``."""
        points = len(self.grid.points())
        done = {label: len(self.finished(label)) for label in self.grid.labels}
        return [f"{count} of {points} points of {label}" for label, count in done.items() if count < points]

    def all_runs(self) -> list[Run]:
        """Return every run there is."""
        return [run for of_label in self.runs.values() for run in of_label.values()]


def read_results(output_dir: Path) -> Results:
    """Read the grid and those of its run folders that exist.

    Raises:
        EvalError: If there is no grid, a run folder cannot be read, the first checkpoint has no finished point, or runs
            do not belong together.
    """
    grid = read_grid(output_dir)
    runs: dict[str, dict[Point, Run]] = {}
    for label in grid.labels:
        runs[label] = {}
        for point in grid.points():
            folder = run_path(output_dir, label, point)
            if (folder / RUN_FILE).is_file():
                run = read_run(folder)
                runs[label][point] = replace(run, rollouts=tuple(filter(grid.asks_for, run.rollouts)))
    results = Results(grid, output_dir, runs)
    if not results.finished(grid.labels[0]):
        raise EvalError(f"No point of {grid.labels[0]} in {output_dir} has all its {grid.rollouts_per_point} rollouts.")
    _check_belong_together(results)
    return results


def _check_belong_together(results: Results) -> None:
    """Refuse runs that differ in more than the camera, or checkpoints that were not asked the same."""
    first: Run | None = None
    for label in results.grid.labels:
        of_label: Run | None = None
        for point, run in results.runs[label].items():
            _refuse_difference(
                {str(point): asdict(point.camera_shift)}, {str(point): run.settings["camera_shift"]}, run
            )
            of_label, first = of_label or run, first or run
            weights = "weights_sha256"
            _refuse_difference({weights: of_label.policy[weights]}, {weights: run.policy[weights]}, run)
            _refuse_difference(_fixed(of_label), _fixed(run), run)
            shared = [name for name in _fixed(first) if name not in OF_A_POLICY]
            _refuse_difference({n: _fixed(first)[n] for n in shared}, {n: _fixed(run).get(n) for n in shared}, run)


def _fixed(run: Run) -> dict[str, Any]:
    settings = {name: value for name, value in comparable(run.settings).items() if name not in MEANINGS}
    # The render quality is among both.
    return settings | {OF_SIMULATOR + name: value for name, value in run.simulator.items() if name not in OF_THE_FILES}


def _refuse_difference(expected: Mapping[str, Any], found: Mapping[str, Any], run: Run) -> None:
    for name, value in expected.items():
        if not same_simulator(name.removeprefix(OF_SIMULATOR), value, found.get(name)):
            raise EvalError(
                f"{run.path} does not belong to this grid: its {flag_of(name)} is {found.get(name)}, expected {value}. "
                "Remove that folder, or choose a new --output_dir."
            )
