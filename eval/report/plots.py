"""Draw the plots of the reports: loss, success with intervals, steps to success; files are written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.common.lerobot_results import TaskResult
from eval.common.statistics import wilson_interval
from lerobot_atlasvla.files.replacing import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]
"""(training step, loss), in order."""

Counts = tuple[int, int]
"""Successes and rollouts."""


def plot_run(curve: Curve, results: Sequence[TaskResult], path: Path, title: str) -> None:
    """Loss over training on the left, success rate per task with its interval on the right; written to ``path``."""
    figure = new_figure(10, 4)
    loss_axes, success_axes = figure.subplots(1, 2)
    _draw_loss(loss_axes, {"": curve}, "L1 loss (normalized actions)")
    rows = [f"{result.suite} {result.task_id}" for result in results]
    _draw_success(success_axes, rows, {"": [(sum(r.successes), len(r.successes)) for r in results]})
    figure.suptitle(title)
    save(figure, path)


def plot_loss(curves: Mapping[str, Curve], path: Path) -> None:
    """Plot the training loss of each run, by label."""
    figure = new_figure(7, 4)
    _draw_loss(figure.subplots(), curves, "training loss")
    save(figure, path)


def plot_success(rows: Sequence[str], counts: Mapping[str, Sequence[Counts | None]], path: Path) -> None:
    """Plot success rates with their intervals.

    Args:
        rows: Name of each row, top to bottom.
        counts: By label of the run, one entry per row; None where the run has no rollouts.
        path: File to write.
    """
    figure = new_figure(8, 1.5 + 0.3 * len(rows) * max(1.0, 0.6 * len(counts)))
    _draw_success(figure.subplots(), rows, counts)
    save(figure, path)


def plot_steps(steps: Mapping[str, Sequence[int]], path: Path) -> None:
    """Plot a histogram of the steps of successful rollouts, by label of the run; at least one must have some."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    every = np.concatenate([list(values) for values in steps.values()])
    # Whole steps, the same number in each of at most 30 bins.
    width = max(1, -(-int(np.ptp(every) + 1) // 30))
    edges = np.arange(every.min(), every.max() + width + 1, width) - 0.5
    for label, values in steps.items():
        axes.hist(values, bins=edges, label=label, alpha=0.8 / len(steps) + 0.2)
    axes.set(xlabel="steps to success", ylabel="successful rollouts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    _legend(axes, steps)
    save(figure, path)


def _draw_loss(axes: Axes, curves: Mapping[str, Curve], ylabel: str) -> None:
    for label, curve in curves.items():
        axes.plot([step for step, _ in curve], [loss for _, loss in curve], label=label)
    # A flow-matching or VAE loss can be anything above zero; a likelihood can be below, where a logarithm ends.
    positive = all(loss > 0 for curve in curves.values() for _, loss in curve)
    axes.set(xlabel="training step", ylabel=ylabel, yscale="log" if positive else "linear")
    axes.grid(alpha=0.3, which="both")
    _legend(axes, curves)


def _draw_success(axes: Axes, rows: Sequence[str], counts: Mapping[str, Sequence[Counts | None]]) -> None:
    for number, (label, of_run) in enumerate(counts.items()):
        offset = 0.7 * ((number + 0.5) / len(counts) - 0.5)
        measured = [(row, *entry) for row, entry in enumerate(of_run) if entry is not None]
        rates, errors = rates_with_intervals([(successes, rollouts) for _, successes, rollouts in measured])
        heights = [row + offset for row, _, _ in measured]
        axes.errorbar(rates, heights, xerr=errors, fmt="o", capsize=3, markersize=4, label=label)
        for height, (_, successes, rollouts) in zip(heights, measured, strict=True):
            axes.annotate(f"{successes}/{rollouts}", (103, height), va="center", fontsize=8, annotation_clip=False)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="success rate, %, with 95 % Wilson interval", xlim=(-2, 102), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(alpha=0.3, axis="x")
    _legend(axes, counts)


def rates_with_intervals(counts: Sequence[Counts]) -> tuple[list[float], list[list[float]]]:
    """Return success rates, %, and how far their 95 % Wilson intervals reach below and above, for error bars."""
    rates = [100 * successes / rollouts for successes, rollouts in counts]
    limits = [wilson_interval(successes, rollouts) for successes, rollouts in counts]
    # At 0 and 100 % rounding can put a limit on the wrong side of the rate by 1e-14, which Matplotlib refuses.
    below = [max(0.0, rate - 100 * low) for rate, (low, _) in zip(rates, limits, strict=True)]
    above = [max(0.0, 100 * high - rate) for rate, (_, high) in zip(rates, limits, strict=True)]
    return rates, [below, above]


def _legend(axes: Axes, labels: Mapping[str, object]) -> None:
    if any(labels):
        axes.legend(fontsize=8, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches."""
    # Without pyplot: no window system is asked, and nothing stays open.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with replacing(path) as scratch:
        # Matplotlib's version is left out, so that the same numbers give the same file on more machines.
        figure.savefig(scratch, dpi=110, format="png", metadata={"Software": None})
