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
import time
from dataclasses import dataclass, field
from pathlib import Path

import draccus

from eval.common.commands import measure
from eval.demo.report import write_report
from lerobot_atlasvla.sim.culling import ENV_CULL
from lerobot_atlasvla.sim.displace import ENV_DISPLACE_CM, check_displace_cm
from lerobot_atlasvla.sim.look import ENV_LOOK
from lerobot_atlasvla.sim.setup import prepare_libero

CAMERAS = {"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"}


@dataclass
class DemoConfig:
    """What ``make demo`` does; override with ``make demo ARGS="--steps=200"``."""

    # Everything is written here; a folder left by an earlier run is renamed, never overwritten.
    output_dir: Path = Path("outputs/demo")
    # LIBERO suite; the scripted expert knows libero_spatial.
    suite: str = "libero_spatial"
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
    look: str = "plain"
    # Simulator processes during collection.
    workers: int = 2
    # Training steps.
    steps: int = 900
    # Seed of the demonstrations, the training and the rollouts.
    seed: int = 1000


HELD_OUT = 0.1
"""Share of the demonstrations that no policy is trained on."""


def tool(name: str) -> str:
    """Path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        command: Program and arguments.
        environment: Variables that it needs besides those of all stages.
        free_cores: Cores that its arithmetic leaves to others, such as software rendering.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    free_cores: int = 1


def run_stage(name: str, stage: Stage, log: Path) -> float:
    """Run one stage, its output on the terminal and in ``log``; return seconds.

    Raises:
        SystemExit: If the command fails, naming it and its log.
    """
    threads = max(1, (os.cpu_count() or 2) - stage.free_cores)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | stage.environment
    command = stage.command
    process = measure(name, command, log, environment)
    if process.status:
        raise SystemExit(f"demo: {name} failed with exit status {process.status}; its output is in {log}")
    return process.wall_s


def stages(cfg: DemoConfig) -> dict[str, Stage]:
    """The stages by name, in their order."""
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
            ]
        ),
        # Reading takes a sixth of the time that learning takes.
        "train": Stage(training(train), free_cores=0),
        "eval": Stage(
            [
                tool("lerobot-eval"),
                f"--policy.path={checkpoint}",
                "--env.type=libero",
                f"--env.task={cfg.suite}",
                f"--env.task_ids=[{cfg.task_id}]",
                f"--env.observation_height={cfg.render_size}",
                f"--env.observation_width={cfg.render_size}",
                f"--env.camera_name_mapping={json.dumps(CAMERAS)}",
                f"--eval.n_episodes={cfg.rollouts}",
                # One environment at a time: vectorized ones reset as soon as they finish and so skip initial states.
                "--eval.batch_size=1",
                f"--output_dir={evaluation}",
                f"--seed={cfg.seed}",
            ],
            {ENV_DISPLACE_CM: f"{cfg.displace_cm:g}"},
        ),
        "reliance": Stage(
            [
                sys.executable,
                "-m",
                "eval.reliance",
                f"--checkpoint={checkpoint}",
                f"--dataset_root={data}",
                f"--output_dir={out / 'reliance'}",
            ]
        ),
    }
    if cfg.blind_control:
        # No image to learn from: both cores read.
        found["blind_train"] = Stage(training(f"{out}/blind_train", "--policy.views=none", "--num_workers=2"))
        found["blind_eval"] = Stage(
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
                f"--look={cfg.look}",
                f"--seeds=[{cfg.seed}]",
                "--videos=0",
            ]
        )
    return found


def set_aside(folder: Path) -> None:
    """Rename what an earlier run left, so that nothing is overwritten."""
    if folder.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        kept = folder.with_name(f"{folder.name}-{stamp}")
        folder.rename(kept)
        sys.stdout.write(f"demo: an earlier run was moved to {kept}\n")


@draccus.wrap()
def main(cfg: DemoConfig) -> None:
    """Run the demo; its last lines of output are the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    try:
        check_displace_cm(cfg.displace_cm, "--displace_cm")
    except ValueError as error:
        raise SystemExit(f"demo: {error}") from error
    os.environ[ENV_LOOK] = cfg.look
    os.environ[ENV_CULL] = "1"  # the same pictures, sooner
    # Settles assets, look and OpenGL for all stages, and fails here rather than minutes later.
    prepare_libero()
    set_aside(cfg.output_dir)
    cfg.output_dir.mkdir(parents=True)
    planned = stages(cfg)
    seconds = {name: run_stage(name, stage, cfg.output_dir / f"{name}.log") for name, stage in planned.items()}
    lines = write_report(
        cfg.output_dir,
        commands={name: as_typed(stage) for name, stage in planned.items()},
        seconds=seconds,
        wall_s=time.monotonic() - started,
    )
    sys.stdout.write("\n".join(lines) + "\n")


def as_typed(stage: Stage) -> str:
    """The command line of a stage, without the folder of its program."""
    words = [*(f"{name}={value}" for name, value in stage.environment.items()), Path(stage.command[0]).name]
    return shlex.join([*words, *stage.command[1:]])
