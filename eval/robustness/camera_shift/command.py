"""``python -m eval.camera_shift``: success rate as a function of how far the scene camera is moved and turned.

Every point of the grid is a run folder of ``eval.run`` (OUTPUT/LABEL/POINT), so a grid that was stopped is continued by
the same command. The report (``eval/robustness/camera_shift/report.py``) compares the checkpoints point by point.
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from eval.common.cli import run_command, stoppable
from eval.common.errors import EvalError, check_output_dir
from eval.common.files import only_writer
from eval.common.statistics import format_rate
from eval.report.data import note_text
from eval.robustness.camera_shift.grid import GRID_FILE, MEANINGS, Grid, Point, run_path, view_path, write_grid
from eval.robustness.camera_shift.report import KIND, write_report
from eval.robustness.camera_shift.results import read_results
from eval.robustness.camera_shift.views import take_views
from eval.rollout.policy.checkpoint import choose_device, choose_image_size, read_checkpoint
from eval.rollout.run import AGAIN, run
from eval.rollout.run_folder import Run
from eval.rollout.settings import RolloutSettings, RunConfig
from lerobot_atlasvla.utils.cli import log_to_terminal

logger = logging.getLogger("eval.camera_shift")


@dataclass(kw_only=True)
class CameraShiftConfig(RolloutSettings):
    """Roll checkpoints out with the scene camera moved and turned. The same command continues a grid that was stopped.

    The unshifted camera is always run, once, and belongs to every sweep.
    """

    # Folder of the grid: its run folders are OUTPUT_DIR/LABEL/POINT. It must not exist yet, or hold a grid.
    output_dir: Path
    # Folders of the checkpoints, for example '[outputs/a/checkpoints/last, outputs/b/checkpoints/last]'. The report
    # compares the first two.
    checkpoints: list[Path] = field(default_factory=list)
    # Names of the checkpoints in the report and of their folders. Type of the policy and number if not given.
    labels: list[str] | None = None
    # Name of the report; it must contain the word shift. That of the output folder if not given.
    name: str | None = None
    # The report is written to REPORTS/NAME.
    reports: Path = Path("eval/results")
    # Markdown file that is put into the report as it is, under "Notes". If not given, the notes of the report that is
    # replaced are kept; an empty file removes them.
    note: Path | None = None
    # Run nothing; write the report from what is in --output_dir. Only this, name, reports and note matter then.
    report_only: bool = False
    # Scene camera moved to its right, cm; positive and negative numbers, without 0.
    right_cm: list[float] = field(default_factory=lambda: [-20, -10, -5, 5, 10, 20])
    # Scene camera moved up, cm.
    up_cm: list[float] = field(default_factory=list)
    # Scene camera moved toward the scene, cm.
    forward_cm: list[float] = field(default_factory=list)
    # Scene camera turned to its right, degrees.
    pan_deg: list[float] = field(default_factory=lambda: [-10, -5, 5, 10])
    # Scene camera turned up, degrees.
    tilt_deg: list[float] = field(default_factory=list)
    # Scene camera turned clockwise, degrees.
    roll_deg: list[float] = field(default_factory=list)
    # Scene camera moved around the scene, degrees counterclockwise from above, and turned with it, as LIBERO-Plus does.
    azimuth_deg: list[float] = field(default_factory=list)
    # Scene camera moved over the scene, degrees up, and turned with it.
    elevation_deg: list[float] = field(default_factory=list)
    # Scene camera moved away from the scene, percent of its distance.
    distance_percent: list[float] = field(default_factory=list)
    # Rollouts per point, task and seed, on LIBERO's fixed initial states 0, 1, 2, ...; at most 50.
    episodes: int = 10
    # Videos of failures to keep per point, task and seed; of successes, those among as many first initial states.
    videos: int = 0
    # Render the scene at the unshifted camera and at the ends of every sweep, for the report.
    views: bool = True

    @property
    def report(self) -> Path:
        """Return the folder of the report.

        Raises:
            EvalError: If ``name`` is not one.
        """
        name = self.output_dir.resolve().name if self.name is None else self.name
        if "shift" not in name or Path(name).name != name:
            raise EvalError(
                f"--name={name} must be the name of a folder and contain the word shift, since that is what reports of "
                "camera shifts are found by; for example --name=camera_shift."
            )
        return self.reports / name

    def grid(self, types: Sequence[str], command: str) -> Grid:
        """Return what is asked for, checked.

        Args:
            types: Of the policies.
            command: As typed.

        Raises:
            EvalError: If labels or shifts cannot be used.
        """
        labels = self.labels
        if labels is None:
            labels = [f"{kind}-{number}" for number, kind in enumerate(types, start=1)]
        if len(labels) != len(types):
            raise EvalError(f"--labels={labels} has {len(labels)} entries for {len(types)} --checkpoints.")
        shifts = {direction: getattr(self, direction) for direction in MEANINGS}
        grid = Grid(
            command=command,
            labels=labels,
            sweeps={direction: sorted(values) for direction, values in shifts.items() if values},
            suites=self.suites,
            task_ids=self.task_ids,
            seeds=self.seeds,
            episodes=self.episodes,
        )
        grid.validate()
        return grid

    def run_config(self, checkpoint: Path, label: str, point: Point) -> RunConfig:
        """Return the settings of one point for ``eval.run``."""
        return RunConfig(
            checkpoint=checkpoint,
            output_dir=run_path(self.output_dir, label, point),
            **{setting.name: getattr(self, setting.name) for setting in fields(RolloutSettings)},
            **asdict(point.camera_shift),
        )


def run_grid(cfg: CameraShiftConfig, command: str) -> None:
    """Do what is missing of the grid, point by point, each with all the checkpoints.

    Args:
        cfg: The settings.
        command: How to get here again.

    Raises:
        EvalError: If a setting is wrong, or a run cannot start, be read or go on. What is finished is kept.
        OSError: If the disk is full, for example.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    if not cfg.checkpoints:
        raise EvalError("No checkpoint is given; name one or more, for example --checkpoints='[CHECKPOINT]'.")
    # eval.run looks at a checkpoint when its turn comes, which is after the first point of the one before.
    cfg.run_config(cfg.checkpoints[0], "label", Point()).validate()
    register_third_party_plugins()
    device = choose_device(cfg.device)
    checkpoints = [read_checkpoint(path, device, **cfg.policy_overrides) for path in cfg.checkpoints]
    sizes = {choose_image_size(cfg.image_size, checkpoint) for checkpoint in checkpoints}
    if len(sizes) > 1:
        raise EvalError(
            f"The checkpoints were trained on images of different sizes, {sorted(sizes)}; choose one with --image_size."
        )
    types = [checkpoint.config.type for checkpoint in checkpoints]
    grid = cfg.grid(types, command)
    write_grid(grid, cfg.output_dir)
    jobs = [(point, *pair) for point in grid.points() for pair in zip(grid.labels, cfg.checkpoints, strict=True)]
    for number, (point, label, checkpoint) in enumerate(jobs, start=1):
        logger.info("%d of %d: %s, %s", number, len(jobs), label, point)
        try:
            finished = run(cfg.run_config(checkpoint, label, point), command)
        except EvalError as error:
            raise EvalError(f"{label}, {point}: {error}") from error
        rollouts = [rollout for rollout in finished.rollouts if grid.asks_for(rollout)]
        logger.info("%s, %s: %s", label, point, format_rate(sum(r.success for r in rollouts), len(rollouts)))
        if number == 1 and cfg.views:
            _take_views(cfg, grid, finished)


def _take_views(cfg: CameraShiftConfig, grid: Grid, finished: Run) -> None:
    first = finished.rollouts[0]
    wanted = {view_path(cfg.output_dir, point): point.camera_shift for point in grid.extremes()}
    try:
        take_views(first.suite, first.task_id, cfg.render_quality, wanted)
    except BrokenProcessPool as error:
        raise EvalError(
            "The process that renders the scene died without a Python error. --views=false leaves them out."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0 when the report is written, else as :func:`.run_command`."""
    log_to_terminal("eval.run", "eval.camera_shift")

    def body(cfg: CameraShiftConfig, command: str) -> None:
        # Before hours of rollouts.
        folder = cfg.report
        note = note_text(cfg.note, folder, KIND)
        if not cfg.report_only:
            check_output_dir(cfg.output_dir, GRID_FILE, "grid")
            with stoppable(), only_writer(cfg.output_dir):
                run_grid(cfg, command)
        results = read_results(cfg.output_dir)
        write_report(results, folder, note)
        sys.stdout.write(f"report: {folder / 'report.md'}\ntotal: {results.first_total()}\n")

    again = f"{AGAIN} --report_only=true reports what there is."
    return run_command("eval.camera_shift", CameraShiftConfig, body, argv, again=again)
