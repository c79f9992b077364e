"""Measure what the feature cache saves: the same training run at full size without it and with it.

``python -m eval.benchmark.feature_cache_speed`` takes the weights that ``eval.full_size`` wrote (random, in the
released shapes), runs ``lerobot-train``, ``atlasvla-cache`` and ``lerobot-train`` again with the same flags, and writes
a report.
"""

import json
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmark.full_size.command import REPO_ID, training_flags, worker_command
from eval.benchmark.full_size.weights import WEIGHTS_NAME
from eval.benchmark.harness import environment, run_stages, shown, training_figures
from eval.common.cli import run_command
from eval.common.commands import Process, tool
from eval.common.errors import EvalError, check_at_least
from eval.common.markdown import origin, table
from eval.report.data import publish

PRESET = "atlasvla_libero"
# Losses in LeRobot's log have three decimals.
LOSS_TOLERANCE = 0.0011
_CACHE_MB = re.compile(r"copies x (\d+\.\d+) MB")
NOTE = """Weights, images and actions are random numbers in the released shapes, so only time and agreement mean
anything. *Update* is LeRobot's `updt_s`: forward, backward and optimizer step, without waiting for data; the first one
is left out of the median. Both runs draw the same new layers and the same batches, so their losses must agree, up to
the rounding of another batch size in the cache; LeRobot's log has three decimals."""


@dataclass
class SpeedConfig:
    """Time training with and without the feature cache."""

    # Data, cache and logs are written here; it must not exist yet.
    root: Path = Path("outputs/feature_cache")
    # Folder with VGGT-1B/ and Qwen3-0.6B-Base/, as eval.benchmark.full_size.weights writes them.
    weights: Path = Path("outputs/full_size/weights")
    # Training steps of each run.
    steps: int = 6
    # Samples per step.
    batch_size: int = 4
    # Folder of the report, in --reports.
    name: str = "benchmark-feature-cache"
    # Folder of all reports.
    reports: Path = Path("eval/results")

    def check(self) -> None:
        """Find what can't work before anything is written.

        Raises:
            EvalError: For a folder in the way, missing weights, or too few steps.
        """
        if self.root.exists():
            raise EvalError(f"{self.root} exists already; choose another (--root).")
        for name in ("VGGT-1B", "Qwen3-0.6B-Base"):
            if not (self.weights / name / WEIGHTS_NAME).is_file():
                raise EvalError(
                    f"{self.weights / name} has no {WEIGHTS_NAME}; write the weights with "
                    f"python -m eval.benchmark.full_size.weights {shlex.quote(f'--root={self.weights}')} (--weights)."
                )
        check_at_least(self, steps=2, batch_size=1)


def commands(cfg: SpeedConfig) -> dict[str, list[str]]:
    """Return the commands by stage."""
    training = [
        *training_flags(PRESET, cfg.weights, cfg.root / "data"),
        # Without augmentation, whose random numbers would differ between the runs.
        "--policy.random_crop=0",
        "--policy.color_jitter=0",
        "--policy.scheduler_warmup_steps=0",
        f"--batch_size={cfg.batch_size}",
        f"--steps={cfg.steps}",
        "--save_checkpoint=false",
    ]
    cache = f"--policy.feature_cache={cfg.root / 'features'}"
    return {
        "data": worker_command("data", cfg.root / "data", cfg.root / "data.json", f"--repo_id={REPO_ID}"),
        "without": [tool("lerobot-train"), *training, f"--output_dir={cfg.root / 'without'}"],
        "cache": [tool("atlasvla-cache"), *training, cache],
        "with": [tool("lerobot-train"), *training, cache, f"--output_dir={cfg.root / 'with'}"],
    }


def figures(cfg: SpeedConfig, processes: Mapping[str, Process]) -> dict[str, Any]:
    """Read the figures from the logs.

    Raises:
        EvalError: If a run's log lacks a step.
    """
    found: dict[str, Any] = {}
    for stage in ("without", "with"):
        log = cfg.root / f"{stage}.log"
        losses, updates = training_figures(log)
        if len(losses) != cfg.steps or len(updates) != cfg.steps:
            raise EvalError(f"{log} has {len(losses)} losses and {len(updates)} times, expected {cfg.steps}.")
        done = processes[stage]
        found[stage] = {
            "losses": losses,
            "update_s": updates,
            "median_update_s": statistics.median(updates[1:]),
            "wall_s": done.wall_s,
            "cpu_s": done.cpu_s,
            "peak_gib": done.peak_gib,
        }
    plain, cached = found["without"], found["with"]
    apart = max(abs(one - other) for one, other in zip(plain["losses"], cached["losses"], strict=True))
    data = json.loads((cfg.root / "data.json").read_text())
    megabytes = _CACHE_MB.search((cfg.root / "cache.log").read_text(errors="replace"))
    return found | {
        "speed_up": plain["median_update_s"] / cached["median_update_s"],
        "largest_loss_difference": apart,
        "same_losses": apart < LOSS_TOLERANCE,
        "cache_s": processes["cache"].wall_s,
        "cache_mb_per_frame": float(megabytes[1]) if megabytes else None,
        "frames": data["frames"],
        "batch_size": cfg.batch_size,
    }


def feature_cache_page(values: Mapping[str, Any], commands: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the Markdown report; the last line of output is its verdict."""
    rows = []
    for stage, name in (("without", "VGGT in every step"), ("with", "feature cache")):
        one = values[stage]
        updates = ", ".join(f"{seconds:.2f}" for seconds in one["update_s"])
        losses = ", ".join(f"{loss:.3f}" for loss in one["losses"])
        rows.append((name, f"{one['median_update_s']:.2f}", updates, f"{one['peak_gib']:.2f}", losses))
    lines = ["# The feature cache at full size, on a CPU", "", f"`{verdict(values)}`", "", *NOTE.splitlines(), ""]
    lines += [f"Preset {PRESET} without augmentation, float32, batch {values['batch_size']}.", ""]
    lines += [*table(("run", "update, s: median", "each", "peak, GiB", "losses"), rows), ""]
    lines += [
        f"Building the cache of {values['frames']} frames: {values['cache_s']:.0f} s, the program's start included; "
        f"{values['cache_mb_per_frame']:.2f} MB a frame in float32 (half of it in bfloat16).",
        "",
    ]
    return "\n".join([*lines, *origin([f"`{command}`" for command in commands], environment)])


def verdict(values: Mapping[str, Any]) -> str:
    """Return the result in one line."""
    agree = "the same losses" if values["same_losses"] else "OTHER LOSSES"
    apart = values["largest_loss_difference"]
    return f"feature cache: update {values['speed_up']:.1f} times as fast, {agree} (at most {apart:.4f} apart)"


def run(cfg: SpeedConfig, _: str) -> int:
    """Run everything; the exit status is 0 if the losses agree, else 1."""
    cfg.check()
    cfg.root.mkdir(parents=True)
    found, stages = environment(), commands(cfg)
    values = figures(cfg, run_stages(stages, cfg.root))
    lines = [shown(command, {cfg.weights: "WEIGHTS", cfg.root: "ROOT"}) for command in stages.values()]
    content = {"figures": values, "commands": lines, "environment": found}
    page = publish(cfg.reports / cfg.name, "feature_cache", content, feature_cache_page(values, lines, found))
    sys.stdout.write(f"{verdict(values)}, report {page}\n")
    return 0 if values["same_losses"] else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0 if the losses agree, 1 if not or if the run can't be made."""
    return run_command("eval.benchmark.feature_cache_speed", SpeedConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
