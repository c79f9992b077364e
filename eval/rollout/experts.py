"""Measure the scripted expert: ``python -m eval.rollout.experts --suite=libero_goal --output=FILE.jsonl``.

Nothing is rendered but the last moment of failures, if ``--pictures`` asks for it. Running the same command again
continues where a stopped run was.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from eval.common.errors import EvalError, check_at_least
from eval.common.statistics import wilson_interval
from eval.rollout.plan import same_simulator
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.libero.demonstrations.episode import ActionNoise
from lerobot_atlasvla.libero.demonstrations.task_scene import NO_OP
from lerobot_atlasvla.libero.experts.scripted import PLANS, ScriptedExpert, known_tasks
from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ, SCENE_CAMERA, SETTLE_STEPS, SPATIAL, SUITE_MAX_STEPS
from lerobot_atlasvla.utils.cli import AGAIN, run_command

EXTRA_STEPS = 10
"""Steps after the first success; a placement counts only if the goal is still true then."""

_PICTURE_PX = 256
# How every line of the output begins.
_LINE_START = '{"suite": '


@dataclass(kw_only=True)
class ExpertsConfig:
    """Measure how often the scripted expert solves the tasks of a suite from random placements."""

    # LIBERO suite.
    suite: str = SPATIAL
    # Tasks, for example '[0, 3]'. All that the expert knows if not given.
    task_ids: list[int] | None = None
    # Random placements per task, drawn with the seeds 0, 1, 2, ...
    placements: int = 10
    # Noise on the executed action, 1 as in atlasvla-collect.
    noise: float = 0.0
    # File of the outcomes, one JSON object a line; placements that it already has are not repeated.
    output: Path = Path("outputs/experts.jsonl")
    # Folder for pictures of the end of each failed placement, such as libero_goal_3_seed2.png. None are made if not
    # given.
    pictures: Path | None = None

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work."""
        if self.suite not in PLANS:
            raise EvalError(f"--suite={self.suite} is not known to the scripted expert; allowed: {', '.join(PLANS)}.")
        check_at_least(self, placements=1, noise=0)
        if self.task_ids is not None and (not self.task_ids or len(set(self.task_ids)) < len(self.task_ids)):
            raise EvalError(f"--task_ids={self.task_ids} must name at least one task, and none of them twice.")


@contextmanager
def without_cameras(task: Any, renderer: bool = False) -> Iterator[Any]:
    """A LIBERO task's environment that renders nothing unless asked to; a step takes about 20 ms.

    Args:
        task: LIBERO's record of the task.
        renderer: Whether :func:`save_picture` will be asked for.
    """
    from libero.libero import get_libero_path
    from libero.libero.envs.env_wrapper import ControlEnv

    env = ControlEnv(
        os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file),
        use_camera_obs=False,
        has_offscreen_renderer=renderer,
        control_freq=CONTROL_FREQ_HZ,
    )
    try:
        yield env
    finally:
        env.close()


def place(env: Any, seed: int) -> None:
    """Draw a random placement and let it settle."""
    env.env.object_property_initializers.clear()  # see TaskScene.reset
    env.seed(seed)
    env.reset()
    for name in env.env.observation_names:
        env.env.modify_observable(name, "enabled", False)  # nobody looks
    for _ in range(SETTLE_STEPS):
        env.step(NO_OP)


def solve(env: Any, expert: ScriptedExpert, seed: int, noise: float, max_steps: int) -> int | None:
    """Run one episode from a random placement.

    Args:
        env: From :func:`without_cameras`.
        expert: For that task.
        seed: Of the placement and the noise.
        noise: Scale of the noise on executed actions.
        max_steps: Steps after which it has failed.

    Returns:
        Steps to the first success, or None if there was none or it did not last for :data:`EXTRA_STEPS`.
    """
    place(env, seed)
    expert.reset()
    disturb = ActionNoise(noise, np.random.default_rng(seed))
    solved_at, left, steps = None, max_steps, 0
    while left:
        _, _, success, _ = env.step(disturb(expert.act(), expert.free_motion))
        left, steps = left - 1, steps + 1
        if success and solved_at is None:
            solved_at, left = steps, EXTRA_STEPS
    return solved_at if env.check_success() else None


def save_picture(env: Any, file: Path) -> None:
    """Save what LIBERO's scene camera sees now, upright and not mirrored, 256 pixels wide and high."""
    image = env.sim.render(camera_name=SCENE_CAMERA, width=_PICTURE_PX, height=_PICTURE_PX)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as scratch:
        Image.fromarray(image[::-1]).save(scratch, format="png")  # OpenGL's rows begin at the bottom


def measure(config: ExpertsConfig) -> None:
    """Solve what the output lacks, and print a table of all that it has of the suite and noise."""
    config.validate()
    from lerobot_atlasvla.libero.setup import describe_simulator, prepare_libero

    prepare_libero()
    from libero.libero import benchmark

    suite = benchmark.get_benchmark_dict()[config.suite]()
    known = known_tasks(config.suite)
    asked = known if config.task_ids is None else config.task_ids
    if without := [task_id for task_id in asked if task_id not in known]:
        raise EvalError(f"--task_ids={asked}: the scripted expert knows {known} of {config.suite}, not {without}.")
    assets = describe_simulator()["assets"]
    for row in _rows(config):
        recorded = row.get("assets") or "unknown"
        if not same_simulator("assets", recorded, assets):
            raise EvalError(
                f"--output={config.output} has outcomes on {recorded} assets, and LIBERO's are now {assets}; give "
                "another --output."
            )
    done = {(row["task_id"], row["seed"]) for row in _rows(config)}
    config.output.parent.mkdir(parents=True, exist_ok=True)
    if config.output.exists():
        # A last line that was cut short, or the next one would continue it.
        os.truncate(config.output, config.output.read_bytes().rfind(b"\n") + 1)
    for task_id in asked:
        seeds = [seed for seed in range(config.placements) if (task_id, seed) not in done]
        if not seeds:
            continue
        task = suite.get_task(task_id)
        with without_cameras(task, renderer=config.pictures is not None) as env, config.output.open("a") as file:
            expert = ScriptedExpert(env, task.name)
            for seed in seeds:
                steps = solve(env, expert, seed, config.noise, SUITE_MAX_STEPS[config.suite])
                row = {
                    "suite": config.suite,
                    "task_id": task_id,
                    "task": task.name,
                    "noise": config.noise,
                    "assets": assets,
                }
                row |= {"seed": seed, "steps": steps, "grasps": expert.grasps, "phase": str(expert.phase)}
                file.write(json.dumps(row) + "\n")
                file.flush()
                if steps is None and config.pictures is not None:
                    save_picture(env, config.pictures / f"{config.suite}_{task_id}_seed{seed}.png")
    sys.stdout.write(table(_rows(config)) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one row per task, with success, 95 % Wilson interval and steps."""
    lines = ["| task | success | interval, % | steps: median, longest | failed seeds |", "|---|---|---|---|---|"]
    for task_id, name in sorted({(row["task_id"], row["task"]) for row in rows}):
        of_task = [row for row in rows if row["task_id"] == task_id]
        steps = sorted(row["steps"] for row in of_task if row["steps"] is not None)
        low, high = wilson_interval(len(steps), len(of_task))
        failed = ", ".join(str(row["seed"]) for row in of_task if row["steps"] is None)
        took = f"{median(steps):.0f}, {steps[-1]}" if steps else ""
        lines.append(
            f"| {task_id} {name} | {len(steps)}/{len(of_task)} | {100 * low:.0f}-{100 * high:.0f} | {took} | {failed} |"
        )
    return "\n".join(lines)


def _rows(config: ExpertsConfig) -> list[dict[str, Any]]:
    """Read the outcomes of the suite and noise, one per placement; a last line that was cut short is left out."""
    if not config.output.exists():
        return []
    try:
        *lines, cut = config.output.read_text(encoding="utf-8").split("\n")
        if not _LINE_START.startswith(cut[: len(_LINE_START)]):
            raise ValueError(f"its last line begins with {cut[:20]!r}")
        rows = [json.loads(line) for line in lines]
        wanted = [row for row in rows if row["suite"] == config.suite and row["noise"] == config.noise]
        # Two processes that share a file solve the same placements.
        return list({(row["task_id"], row["seed"]): row for row in wanted}.values())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvalError(
            f"--output={config.output} is not what this command writes ({error!r}); choose a new file."
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Run the command from a console, with ``argv`` instead of ``sys.argv[1:]``; returns the exit status."""
    return run_command(
        "eval.rollout.experts",
        ExpertsConfig,
        measure,
        argv,
        errors=(EvalError, OSError),
        again=AGAIN,
        program="python -m eval.rollout.experts",
    )


if __name__ == "__main__":
    sys.exit(main())
