"""The main job, end to end: demonstrations -> ``lerobot-train`` -> ``lerobot-eval`` -> ``report.md``.

Objects are displaced in demonstrations and rollouts, so that the task can't be solved without looking; a blind policy
(state and instruction) with the same demonstrations and steps shows that. Every stage is the command a user would type;
this file only strings them together.
"""

import json
import logging
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eval.common.cli import run_command
from eval.common.commands import measure, tool
from eval.common.errors import EvalError, check_at_least, check_at_most, check_in_range, check_output_dir
from eval.common.files import only_writer, set_aside
from eval.demo.progress import StageProgress
from eval.demo.report import write_report
from eval.rollout.settings import FIXED_STATES
from lerobot_atlasvla.files.folder_lock import FolderLock
from lerobot_atlasvla.libero.dataset_settings import LARGEST_IMAGE, MOST_WORKERS
from lerobot_atlasvla.libero.experts.scripted import SUITES
from lerobot_atlasvla.libero.gl import GlUnavailableError
from lerobot_atlasvla.libero.patches.displacement import ENV_DISPLACE_CM, check_displace_cm
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY, check_render_quality
from lerobot_atlasvla.libero.setup import prepare_libero
from lerobot_atlasvla.libero.tasks import CAMERA_NAME_MAPPING, SPATIAL, SUITE_TASKS
from lerobot_atlasvla.utils.extras import MissingExtraError
from lerobot_atlasvla.utils.paths import pattern_in


@dataclass
class DemoConfig:
    """Set what ``make demo`` does; override with ``make demo ARGS="--steps=200"``."""

    # Everything is written here; what an earlier demo left is moved away, never overwritten. Anything else is refused.
    output_dir: Path = Path("outputs/demo")
    # LIBERO suite; not every task has a scripted expert (docs/libero.md).
    suite: str = SPATIAL
    # Task of the suite.
    task_id: int = 0
    # All loose objects are displaced by one random vector of up to this much along x and along y, cm, in demonstrations
    # and rollouts alike. Without it (0) a policy solves task 0 blind.
    displace_cm: float = 6.0
    # Scripted demonstrations, from random placements.
    episodes: int = 48
    # Share of them that start from a mishap (a missed grasp, a lost bowl) and show the way back.
    recovery_share: float = 0.2
    # Rollouts, on LIBERO's fixed initial states 0, 1, 2, ...
    rollouts: int = 20
    # Also train and roll out a blind policy: state and instruction, the same demonstrations and steps.
    blind_control: bool = True
    # Side of the demonstrations' images in pixels. LeRobot's reader decodes every image of a chunk's rows to get at its
    # actions, 22 PNG files a sample, so small images are what keeps the cores learning.
    image_size: int = 64
    # Side of the rollouts' images in pixels, and so of the videos; the policy resizes them. Rendering costs the same.
    render_size: int = 256
    # How the scene is rendered, in demonstrations and rollouts alike: plain (no reflections, shadows or antialiasing)
    # or default (LIBERO's own, several times as slow without a GPU).
    render_quality: str = "plain"
    # Simulator processes during collection.
    workers: int = 2
    # Training steps.
    steps: int = 900
    # Seed of the demonstrations, the training and the rollouts.
    seed: int = 1000

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work; starts nothing."""
        if not self.output_dir.name:
            raise EvalError(f"--output_dir={str(self.output_dir)!r} must name a folder.")
        if self.suite not in SUITES:
            raise EvalError(f"--suite={self.suite} is not known to the scripted expert; allowed: {', '.join(SUITES)}.")
        # One demonstration is held out, and one to learn from must be left.
        check_at_least(self, episodes=2, rollouts=1, image_size=1, render_size=1, workers=1, steps=1)
        check_at_most(self, image_size=LARGEST_IMAGE, render_size=LARGEST_IMAGE, workers=MOST_WORKERS)
        check_in_range(self, task_id=(0, SUITE_TASKS[self.suite] - 1), rollouts=(0, FIXED_STATES))
        # LIBERO seeds NumPy's generator, which takes 32 bits.
        check_in_range(self, recovery_share=(0, 1), seed=(0, 2**32 - self.rollouts))
        try:
            check_displace_cm(self.displace_cm, "--displace_cm")
            check_render_quality(self.render_quality, "--render_quality")
        except ValueError as error:
            raise EvalError(f"{error}.") from error


FIRST_LOG = "collect.log"
"""What every demo writes first: a folder that has it is one of a demo."""

HELD_OUT = 0.1
"""Share of the demonstrations that no policy is trained on."""


@dataclass(frozen=True)
class Stage:
    """Describe one command of the demo.

    Attributes:
        says: What happens and why, for the terminal.
        command: Program and arguments.
        follows: Text in the lines of the progress bar of its output that is shown; empty if it has none.
        environment: Variables that it needs besides those of all stages.
        free_cores: Cores that its arithmetic leaves to others, such as software rendering.
    """

    says: str
    command: list[str]
    follows: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    free_cores: int = 1


def run_stage(name: str, stage: Stage, place: str, log: Path, lock: FolderLock | None = None) -> float:
    """Run one stage, its output in ``log``; return seconds.

    Args:
        name: Of the stage.
        stage: What to run.
        place: Of how many stages it is which, such as ``1/6``.
        log: File that gets all that the command prints.
        lock: Of the demo's folder, which the stage holds as well.

    Raises:
        EvalError: If the command fails, naming it and its log, with the last lines of the log.
    """
    threads = max(1, (os.cpu_count() or 2) - stage.free_cores)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | stage.environment
    text = textwrap.fill(f"[{place}] {name}: {stage.says}", 100, subsequent_indent="      ")
    sys.stdout.write(f"\n{text}\n      log: {log}\n")
    sys.stdout.flush()
    with closing(StageProgress(name, stage.follows)) as progress:
        process = measure(name, stage.command, log, environment, progress, lock)
    if process.status:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise EvalError(f"{name} failed with exit status {process.status}; its output, in {log}, ends with\n{last}")
    sys.stdout.write(f"      done in {process.wall_s:.0f} s\n")
    return process.wall_s


def stages(cfg: DemoConfig) -> dict[str, Stage]:
    """Return the stages by name, in their order."""
    out = cfg.output_dir
    data, train, evaluation = (str(out / part) for part in ("data", "train", "eval"))
    repo_id = f"local/{cfg.suite}_task{cfg.task_id}"
    checkpoint = f"{train}/checkpoints/last/pretrained_model"

    def training(output_dir: str, *more: str) -> list[str]:
        return [
            tool("lerobot-train"),
            "--config_path=configs/policy/atlasvla_tiny.yaml",
            f"--dataset.repo_id={repo_id}",
            f"--dataset.root={data}",
            # Not trained on: the reliance is measured on these.
            f"--dataset.eval_split={HELD_OUT}",
            f"--output_dir={output_dir}",
            f"--steps={cfg.steps}",
            f"--seed={cfg.seed}",
            *more,
        ]

    found = {
        "collect": Stage(
            f"a scripted expert solves the task {cfg.episodes} times from random placements, in LIBERO's simulator. "
            "These demonstrations are the training data.",
            [
                tool("atlasvla-collect"),
                f"--root={data}",
                f"--repo_id={repo_id}",
                f"--suite={cfg.suite}",
                f"--task_ids=[{cfg.task_id}]",
                f"--episodes_per_task={cfg.episodes}",
                f"--image_size={cfg.image_size}",
                f"--displace_cm={cfg.displace_cm:g}",
                f"--recovery_share={cfg.recovery_share:g}",
                f"--workers={cfg.workers}",
                f"--seed={cfg.seed}",
            ],
            "collecting",
        ),
        # Reading takes a sixth of the time that learning takes.
        "train": Stage(
            f"lerobot-train learns the smallest policy, atlasvla_tiny, from them in {cfg.steps} steps.",
            training(train),
            "Training",
            free_cores=0,
        ),
        "eval": Stage(
            f"lerobot-eval has the policy act in {cfg.rollouts} rollouts, objects displaced by up to "
            f"{cfg.displace_cm:g} cm.",
            [
                tool("lerobot-eval"),
                f"--policy.path={checkpoint}",
                "--env.type=libero",
                f"--env.task={cfg.suite}",
                f"--env.task_ids=[{cfg.task_id}]",
                f"--env.observation_height={cfg.render_size}",
                f"--env.observation_width={cfg.render_size}",
                f"--env.camera_name_mapping={json.dumps(CAMERA_NAME_MAPPING)}",
                f"--eval.n_episodes={cfg.rollouts}",
                # One environment at a time: vectorized ones reset as soon as they finish and so skip initial states.
                "--eval.batch_size=1",
                f"--output_dir={evaluation}",
                f"--seed={cfg.seed}",
            ],
            "Stepping through eval batches",
            {ENV_DISPLACE_CM: f"{cfg.displace_cm:g}"},
        ),
        "reliance": Stage(
            "on demonstrations that were held out, images, state and instruction are swapped: what do the actions "
            "depend on?",
            [
                sys.executable,
                "-m",
                "eval.reliance",
                f"--checkpoint={checkpoint}",
                f"--dataset_root={data}",
                f"--output_dir={out / 'reliance'}",
            ],
        ),
    }
    if cfg.blind_control:
        found["blind_train"] = Stage(
            "the control: a policy without images learns from the same demonstrations, in as many steps.",
            # No image to learn from: both cores read.
            training(f"{out}/blind_train", "--policy.views=none", "--num_workers=2"),
            "Training",
        )
        found["blind_eval"] = Stage(
            "the blind policy acts in the same rollouts. Whatever it achieves can be done without images.",
            [
                sys.executable,
                "-m",
                "eval.run",
                f"--checkpoint={out}/blind_train",
                f"--output_dir={out}/blind_eval",
                f"--suites=[{cfg.suite}]",
                f"--task_ids=[{cfg.task_id}]",
                f"--episodes={cfg.rollouts}",
                f"--displace_cm={cfg.displace_cm:g}",
                f"--render_quality={cfg.render_quality}",
                f"--seeds=[{cfg.seed}]",
                "--videos=0",
            ],
            "rollout",
        )
    return found


def run(cfg: DemoConfig, _: str) -> None:
    """Run the demo; its last lines of output are the result."""
    started = time.monotonic()
    if problem := pattern_in(cfg.output_dir, "--output_dir"):
        raise EvalError(problem)
    cfg.validate()
    check_output_dir(cfg.output_dir, FIRST_LOG, "demo")
    os.environ[ENV_RENDER_QUALITY] = cfg.render_quality
    os.environ[ENV_CULL] = "1"  # the same images, sooner
    try:
        # Settles assets, render quality and OpenGL for all stages, and fails here rather than minutes later.
        prepare_libero()
    except (ValueError, MissingExtraError, GlUnavailableError) as error:
        raise EvalError(str(error)) from error
    with only_writer(cfg.output_dir) as lock:
        lines = _run_alone(cfg, lock, started)
    sys.stdout.write("\n".join(lines) + "\n")


def _run_alone(cfg: DemoConfig, lock: FolderLock, started: float) -> list[str]:
    """Run the stages in a folder that nobody else writes to; return the last lines of output."""
    if kept := set_aside(cfg.output_dir, sorted(cfg.output_dir.iterdir())):
        sys.stdout.write(f"demo: an earlier run was moved to {kept}\n")
    planned = stages(cfg)
    sys.stdout.write(
        f"AtlasVLA demo: from nothing to a policy and its success rate, in {len(planned)} stages, each a command that "
        f"you could type. Everything is written to {cfg.output_dir}; about 20 minutes on two cores.\n"
    )
    seconds = {
        name: run_stage(name, stage, f"{number}/{len(planned)}", cfg.output_dir / f"{name}.log", lock)
        for number, (name, stage) in enumerate(planned.items(), start=1)
    }
    return write_report(
        cfg.output_dir,
        commands={name: as_typed(stage) for name, stage in planned.items()},
        seconds=seconds,
        wall_s=time.monotonic() - started,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for a stage that failed, 2 for a flag that does not parse."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command("eval.demo", DemoConfig, run, argv)


def as_typed(stage: Stage) -> str:
    """Return the command line of a stage, without the folder of its program."""
    words = [*(f"{name}={value}" for name, value in stage.environment.items()), Path(stage.command[0]).name]
    return shlex.join([*words, *stage.command[1:]])
