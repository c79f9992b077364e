"""The main job, end to end: demonstrations -> ``lerobot-train`` -> ``lerobot-eval`` -> ``report.md``.

Every stage is the command a user would type; this file only strings them together and writes the report.
"""

import json
import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import draccus

from eval.lerobot_results import read_eval_info, read_training_curve, success_table, total
from eval.plots import plot_run
from eval.provenance import versions
from eval.stage import measure
from eval.statistics import format_rate
from lerobot_atlasvla.data.demonstrate import CONTROL_FREQ_HZ, SETTLE_STEPS
from lerobot_atlasvla.sim.culling import ENV_CULL
from lerobot_atlasvla.sim.look import ENV_LOOK
from lerobot_atlasvla.sim.setup import describe_simulator, prepare_libero

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
    # Scripted demonstrations, from random placements.
    episodes: int = 40
    # Rollouts, on LIBERO's fixed initial states 0, 1, 2, ...
    rollouts: int = 20
    # Side of the demonstrations' images in pixels. LeRobot's reader decodes every image of a chunk's rows to get at its
    # actions, 22 PNG files a sample, so small images are what keeps the cores learning.
    image_size: int = 64
    # Side of the rollouts' images in pixels, and so of the videos; the policy resizes them. Rendering costs the same.
    render_size: int = 256
    # How the scene is rendered, in demonstrations and rollouts alike: fast (no reflections, no shadows) or default
    # (LIBERO's own, about twice as slow without a GPU).
    look: str = "fast"
    # Simulator processes during collection.
    workers: int = 2
    # Training steps.
    steps: int = 600
    # Seed of the demonstrations, the training and the rollouts.
    seed: int = 1000


def tool(name: str) -> str:
    """Path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def run_stage(name: str, command: list[str], log: Path) -> float:
    """Run one command, its output on the terminal and in ``log``; return seconds.

    Raises:
        SystemExit: If the command fails, naming it and its log.
    """
    # One core stays free for the data loader and for software rendering.
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))} | os.environ
    process = measure(name, command, log, environment)
    if process.status:
        raise SystemExit(f"demo: {name} failed with exit status {process.status}; its output is in {log}")
    return process.wall_s


def commands(cfg: DemoConfig) -> dict[str, list[str]]:
    """The three commands, by stage."""
    data, train, evaluation = (str(cfg.output_dir / part) for part in ("data", "train", "eval"))
    return {
        "collect": [
            tool("atlasvla-collect"),
            f"--root={data}",
            f"--repo_id=local/{cfg.suite}_task{cfg.task_id}",
            f"--suite={cfg.suite}",
            f"--task_ids=[{cfg.task_id}]",
            f"--episodes_per_task={cfg.episodes}",
            f"--image_size={cfg.image_size}",
            f"--workers={cfg.workers}",
            f"--seed={cfg.seed}",
        ],
        "train": [
            tool("lerobot-train"),
            "--config_path=configs/policy/atlasvla_tiny.yaml",
            f"--dataset.repo_id=local/{cfg.suite}_task{cfg.task_id}",
            f"--dataset.root={data}",
            f"--output_dir={train}",
            f"--steps={cfg.steps}",
            f"--seed={cfg.seed}",
        ],
        "eval": [
            tool("lerobot-eval"),
            f"--policy.path={train}/checkpoints/last/pretrained_model",
            "--env.type=libero",
            f"--env.task={cfg.suite}",
            f"--env.task_ids=[{cfg.task_id}]",
            f"--env.observation_height={cfg.render_size}",
            f"--env.observation_width={cfg.render_size}",
            f"--env.camera_name_mapping={json.dumps(CAMERAS)}",
            f"--eval.n_episodes={cfg.rollouts}",
            # One environment at a time: vectorised ones reset as soon as they finish and so skip initial states.
            "--eval.batch_size=1",
            f"--output_dir={evaluation}",
            f"--seed={cfg.seed}",
        ],
    }


def set_aside(folder: Path) -> None:
    """Rename what an earlier run left, so that nothing is overwritten."""
    if folder.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        kept = folder.with_name(f"{folder.name}-{stamp}")
        folder.rename(kept)
        sys.stdout.write(f"demo: an earlier run was moved to {kept}\n")


def write_report(cfg: DemoConfig, seconds: dict[str, float], wall_s: float) -> str:
    """Write ``report.md`` and ``report.png``; return the demo's last line."""
    out = cfg.output_dir
    assets = prepare_libero()
    collected = json.loads((out / "data/meta/atlasvla_collect.json").read_text())
    if collected["assets"] != assets.kind:
        raise SystemExit(
            f"demo: demonstrations were made on {collected['assets']} assets, rollouts on {assets.kind} ones; "
            "the success rate means nothing. Set ATLASVLA_LIBERO_ASSETS and run again."
        )
    simulator = describe_simulator()
    results = read_eval_info(out / "eval/eval_info.json")
    successes, rollouts = total(results)
    train_config = json.loads((out / "train/checkpoints/last/pretrained_model/train_config.json").read_text())
    curve = read_training_curve(out / "train.log", train_config["log_freq"])
    tasks = collected["tasks"]
    instructions = {int(task_id): task["instruction"] for task_id, task in tasks.items()}
    title = f"AtlasVLA demo: {cfg.suite} task {cfg.task_id} on {assets.kind} assets"
    plot_run(curve, results, out / "report.png", title)

    last_line = f"demo: success {format_rate(successes, rollouts)}, wall {wall_s:.0f} s, assets {assets.kind}"
    stages = commands(cfg)
    kept = sum(task["kept"] for task in tasks.values())
    attempts = sum(task["attempts"] for task in tasks.values())
    videos = [os.path.relpath(video, out) for result in results for video in result.videos]
    lines = [
        f"# {title}",
        "",
        f"`{last_line}`",
        "",
        success_table(results, instructions),
        "",
        f"One training seed ({cfg.seed}), {rollouts} rollouts on LIBERO's fixed initial states 0 to {rollouts - 1}, "
        f"{kept} demonstrations from random placements ({attempts} attempts of the scripted expert).",
        "",
        "![loss and success](report.png)",
        "",
        "## Commands",
        "",
        *[
            f"- {name} ({seconds[name]:.0f} s): `{shlex.join([Path(command[0]).name, *command[1:]])}`"
            for name, command in stages.items()
        ],
        "",
        "## Versions and simulator",
        "",
        # Without assets_path: a report must not depend on where the files lie.
        *[f"- {key}: {value}" for key, value in (versions() | simulator).items() if key != "assets_path" and value],
        f"- images: demonstrations {cfg.image_size} px, rollouts {cfg.render_size} px, resized by the policy to "
        f"{train_config['policy']['image_size']}",
        f"- control {CONTROL_FREQ_HZ} Hz, {SETTLE_STEPS} settle steps, n_action_steps "
        f"{train_config['policy']['n_action_steps']}",
        "",
        "## Videos",
        "",
        *[f"- [{video}]({video})" for video in videos],
        "",
    ]
    (out / "report.md").write_text("\n".join(lines))
    sys.stdout.write(f"\n{success_table(results, instructions)}\n\nreport: {out / 'report.md'}\n")
    return last_line


@draccus.wrap()
def main(cfg: DemoConfig) -> None:
    """Run the demo; its last line of output is the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    os.environ[ENV_LOOK] = cfg.look
    os.environ[ENV_CULL] = "1"  # the same pictures, sooner
    # Settles assets, look and OpenGL for all stages, and fails here rather than minutes later.
    prepare_libero()
    set_aside(cfg.output_dir)
    cfg.output_dir.mkdir(parents=True)
    seconds = {
        name: run_stage(name, command, cfg.output_dir / f"{name}.log") for name, command in commands(cfg).items()
    }
    last_line = write_report(cfg, seconds, time.monotonic() - started)
    sys.stdout.write(f"{last_line}\n")


if __name__ == "__main__":
    main()
