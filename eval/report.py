"""From LeRobot's result files to a table with intervals, a plot and a Markdown report."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

_LOSS = re.compile(r"\bstep:\S+ .*?\bloss:(\d+\.\d+)")


@dataclass(frozen=True)
class TaskResult:
    """Rollouts of one task.

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


def wilson_interval(successes: int, rollouts: int) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate, both ends in [0, 1].

    Source: Wilson, Probable Inference, JASA 22, 1927; computed by SciPy.

    Raises:
        ValueError: If ``rollouts`` is 0 or ``successes`` is not in 0 .. rollouts.
    """
    if rollouts < 1 or not 0 <= successes <= rollouts:
        raise ValueError(f"Need 0 <= successes <= rollouts and at least one rollout, got {successes} of {rollouts}.")
    interval = binomtest(successes, rollouts).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def format_rate(successes: int, rollouts: int) -> str:
    """For example ``19/20 = 95.0 % [76.4, 99.1]``."""
    low, high = wilson_interval(successes, rollouts)
    return f"{successes}/{rollouts} = {100 * successes / rollouts:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def read_eval_info(path: Path) -> list[TaskResult]:
    """Read ``eval_info.json`` of ``lerobot-eval``.

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
    """Successes and rollouts over all tasks."""
    return sum(sum(r.successes) for r in results), sum(len(r.successes) for r in results)


def success_table(results: Sequence[TaskResult], instructions: Mapping[int, str]) -> str:
    """Markdown table: one row per task, then the total if there are several."""
    rows = ["| suite | task | instruction | success rate, 95 % Wilson interval |", "|---|---|---|---|"]
    for result in results:
        rate = format_rate(sum(result.successes), len(result.successes))
        rows.append(f"| {result.suite} | {result.task_id} | {instructions.get(result.task_id, '')} | {rate} |")
    if len(results) > 1:
        rows.append(f"| all | | | {format_rate(*total(results))} |")
    return "\n".join(rows)


def read_training_curve(log: Path, log_freq: int) -> list[tuple[int, float]]:
    """(step, mean loss since the last entry) from the log of ``lerobot-train``.

    LeRobot prints steps as "1K", so the step is counted: one entry every ``log_freq`` steps.
    """
    losses = [float(match.group(1)) for match in _LOSS.finditer(log.read_text(errors="replace"))]
    return [((index + 1) * log_freq, loss) for index, loss in enumerate(losses)]


def plot_run(curve: Sequence[tuple[int, float]], results: Sequence[TaskResult], path: Path, title: str) -> None:
    """Loss over training on the left, success rate per task with its interval on the right; written to ``path``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (loss_axes, success_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    loss_axes.plot([step for step, _ in curve], [loss for _, loss in curve])
    loss_axes.set(xlabel="training step", ylabel="L1 loss (normalised actions)", yscale="log", title="training")
    loss_axes.grid(alpha=0.3, which="both")

    labels = [f"{r.suite} {r.task_id}" for r in results]
    rates = [100 * sum(r.successes) / len(r.successes) for r in results]
    intervals = [wilson_interval(sum(r.successes), len(r.successes)) for r in results]
    errors = [
        [max(0.0, rate - 100 * low) for rate, (low, _) in zip(rates, intervals, strict=True)],
        [max(0.0, 100 * high - rate) for rate, (_, high) in zip(rates, intervals, strict=True)],
    ]
    success_axes.bar(labels, rates, yerr=errors, capsize=6, width=0.5)
    success_axes.set_xlim(-1, len(results))
    success_axes.set(ylabel="success rate, %", ylim=(0, 105), title="rollouts, 95 % Wilson interval")
    for index, result in enumerate(results):
        success_axes.annotate(
            f"{sum(result.successes)}/{len(result.successes)}", (index, 3), ha="center", color="white"
        )
    success_axes.grid(alpha=0.3, axis="y")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
