"""What the feature cache saves: the same training run at full size without it and with it, side by side.

``python -m eval.benchmark.feature_cache_speed`` takes the weights that ``eval.full_size`` wrote (random, in the
released shapes), runs ``lerobot-train``, ``atlasvla-cache`` and ``lerobot-train`` again with the same flags, and writes
a report.
"""

import json
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus

from eval.benchmark.full_size.command import REPO_ID, offline, probe, training_flags
from eval.benchmark.full_size.report import machine, table
from eval.benchmark.full_size.weights import WEIGHTS_NAME
from eval.common.commands import Process, measure
from eval.common.environment_info import versions
from eval.demo.command import tool
from eval.report.data import REPORT_FILE, SCHEMA_VERSION, json_text, write_text
from eval.rollout.lerobot_results import read_training_curve

PRESET = "atlasvla_libero"
# Losses in LeRobot's log have three decimals.
LOSS_TOLERANCE = 0.0011
_UPDATE_S = re.compile(r"\bupdt_s:(\d+\.\d+)")
_CACHE_MB = re.compile(r"copies x (\d+\.\d+) MB")
NOTE = """Weights, pictures and actions are random numbers in the released shapes, so only time and agreement mean
anything. *Update* is LeRobot's `updt_s`: forward, backward and optimizer step, without waiting for data; the first one
is left out of the median. Both runs draw the same new layers and the same batches, so their losses must agree, up to
the rounding of another batch size in the cache; LeRobot's log has three decimals."""


@dataclass
class SpeedConfig:
    """What is run."""

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
            ValueError: For a folder in the way, missing weights, or too few steps.
        """
        if self.root.exists():
            raise ValueError(f"{self.root} exists already; choose another (--root).")
        for name in ("VGGT-1B", "Qwen3-0.6B-Base"):
            if not (self.weights / name / WEIGHTS_NAME).is_file():
                raise ValueError(
                    f"{self.weights / name} has no {WEIGHTS_NAME}; write the weights with "
                    f"python -m eval.benchmark.full_size.weights --root={self.weights} (--weights)."
                )
        if self.steps < 2 or self.batch_size < 1:
            raise ValueError(
                f"--steps must be at least 2 and --batch_size at least 1, got {self.steps} and {self.batch_size}."
            )


def commands(cfg: SpeedConfig) -> dict[str, list[str]]:
    """The commands by stage."""
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
        "data": probe("data", cfg.root / "data", cfg.root / "data.json", f"--repo_id={REPO_ID}"),
        "without": [tool("lerobot-train"), *training, f"--output_dir={cfg.root / 'without'}"],
        "cache": [tool("atlasvla-cache"), *training, cache],
        "with": [tool("lerobot-train"), *training, cache, f"--output_dir={cfg.root / 'with'}"],
    }


def run(cfg: SpeedConfig) -> dict[str, Process]:
    """All stages, one after the other.

    Raises:
        OSError: If one fails; its output is in its log.
    """
    processes = {}
    for stage, command in commands(cfg).items():
        log = cfg.root / f"{stage}.log"
        processes[stage] = measure(stage, command, log, offline())
        if status := processes[stage].status:
            raise OSError(f"{stage} failed with exit status {status}; its output is in {log}")
    return processes


def figures(cfg: SpeedConfig, processes: dict[str, Process]) -> dict[str, Any]:
    """What the logs say.

    Raises:
        ValueError: If a run's log lacks a step.
    """
    found: dict[str, Any] = {}
    for stage in ("without", "with"):
        log = cfg.root / f"{stage}.log"
        losses = [loss for _, loss in read_training_curve(log, 1)]
        updates = [float(seconds) for seconds in _UPDATE_S.findall(log.read_text(errors="replace"))]
        if len(losses) != cfg.steps or len(updates) != cfg.steps:
            raise ValueError(f"{log} has {len(losses)} losses and {len(updates)} times, expected {cfg.steps}.")
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


def render(values: dict[str, Any], shown: Sequence[str], environment: dict[str, str]) -> str:
    """The Markdown report; the last line of output is its verdict."""
    rows = []
    for stage, name in (("without", "VGGT in every step"), ("with", "feature cache")):
        one = values[stage]
        updates = ", ".join(f"{seconds:.2f}" for seconds in one["update_s"])
        losses = ", ".join(f"{loss:.3f}" for loss in one["losses"])
        rows.append((name, f"{one['median_update_s']:.2f}", updates, f"{one['peak_gib']:.2f}", losses))
    lines = ["# The feature cache at full size, on a CPU", "", f"`{verdict(values)}`", "", *NOTE.splitlines(), ""]
    lines += [f"Preset {PRESET} without augmentation, float32, batch {values['batch_size']}.", ""]
    lines += table(("run", "update, s: median", "each", "peak, GiB", "losses"), rows)
    lines += [
        "",
        f"Building the cache of {values['frames']} frames: {values['cache_s']:.0f} s, the program's start included; "
        f"{values['cache_mb_per_frame']:.2f} MB a frame in float32 (half of it in bfloat16).",
        "",
        "## Commands",
        "",
        *(f"- `{command}`" for command in shown),
        "",
        "## Versions and machine",
        "",
        *(f"- {key}: {value}" for key, value in environment.items()),
        "",
    ]
    return "\n".join(lines)


def verdict(values: dict[str, Any]) -> str:
    """One line."""
    agree = "the same losses" if values["same_losses"] else "OTHER LOSSES"
    apart = values["largest_loss_difference"]
    return f"feature cache: update {values['speed_up']:.1f} times as fast, {agree} (at most {apart:.4f} apart)"


def main(argv: list[str] | None = None) -> int:
    """Run everything.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 0 if the losses agree, 1 if not or if the run can't be made.
    """
    cfg = draccus.parse(SpeedConfig, args=argv)
    try:
        cfg.check()
        cfg.root.mkdir(parents=True)
        # Now, because the working tree may be another one by the end.
        environment = versions() | machine()
        values = figures(cfg, run(cfg))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"feature cache: {error}\n")
        return 1
    shown = [_anonymous(cfg, command) for command in commands(cfg).values()]
    folder = cfg.reports / cfg.name
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": SCHEMA_VERSION, "kind": "feature_cache", "name": cfg.name, "complete": True}
    content |= {"figures": values, "commands": shown, "environment": environment}
    write_text(folder / REPORT_FILE, json_text(content))
    write_text(folder / "report.md", render(values, shown, environment))
    sys.stdout.write(f"{verdict(values)}, report {folder / 'report.md'}\n")
    return 0 if values["same_losses"] else 1


def _anonymous(cfg: SpeedConfig, command: Sequence[str]) -> str:
    """A command without the folders of this machine."""
    text = shlex.join([Path(command[0]).name, *command[1:]])
    return text.replace(str(cfg.weights), "WEIGHTS").replace(str(cfg.root), "ROOT")


if __name__ == "__main__":
    sys.exit(main())
