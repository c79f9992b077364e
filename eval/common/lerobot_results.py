"""Read what LeRobot's own commands leave behind: ``eval_info.json`` and the log of ``lerobot-train``."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.common.statistics import format_rate

_LOSS = re.compile(r"\bstep:\S+ .*?\bloss:(-?\d+\.\d+|-?inf|nan)")


@dataclass(frozen=True)
class TaskResult:
    """Hold the outcomes of one task's rollouts, as ``lerobot-eval`` recorded them.

    Attributes:
        suite: LIBERO suite.
        task_id: Index of the task in the suite.
        successes: One entry per rollout, in order.
        videos: Files written by ``lerobot-eval`` (it keeps at most ten per task).
    """

    suite: str
    task_id: int
    successes: tuple[bool, ...]
    videos: tuple[Path, ...]


def read_eval_info(path: Path) -> list[TaskResult]:
    """Read each task's results from the ``eval_info.json`` of ``lerobot-eval``.

    Raises:
        ValueError: If the file lists no rollouts.
    """
    per_task = json.loads(path.read_text())["per_task"]
    results = [
        TaskResult(
            suite=entry["task_group"],
            task_id=entry["task_id"],
            successes=tuple(bool(success) for success in entry["metrics"]["successes"]),
            videos=tuple(Path(video) for video in entry["metrics"].get("video_paths", ())),
        )
        for entry in per_task
    ]
    if not any(result.successes for result in results):
        raise ValueError(f"{path} lists no rollouts.")
    return results


def total(results: Sequence[TaskResult]) -> tuple[int, int]:
    """Return the numbers of successes and rollouts over all tasks."""
    return sum(sum(r.successes) for r in results), sum(len(r.successes) for r in results)


def success_table(results: Sequence[TaskResult], instructions: Mapping[int, str]) -> str:
    """Make a Markdown table: one row per task, then the total if there are several."""
    rows = ["| suite | task | instruction | success rate, 95 % Wilson interval |", "|---|---|---|---|"]
    for result in results:
        rate = format_rate(sum(result.successes), len(result.successes))
        rows.append(f"| {result.suite} | {result.task_id} | {instructions.get(result.task_id, '')} | {rate} |")
    if len(results) > 1:
        rows.append(f"| all | | | {format_rate(*total(results))} |")
    return "\n".join(rows)


def read_training_curve(log: Path, log_freq: int) -> list[tuple[int, float]]:
    """Read (step, mean loss since the last entry) from the log of ``lerobot-train``.

    LeRobot prints steps as "1K", so the step is counted: one entry every ``log_freq`` steps. Losses that are not finite
    count, too, and are left out.
    """
    losses = [float(match.group(1)) for match in _LOSS.finditer(log.read_text(errors="replace"))]
    return [((index + 1) * log_freq, loss) for index, loss in enumerate(losses) if math.isfinite(loss)]
