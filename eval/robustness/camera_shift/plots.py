"""Draw the plots of the camera shift report: success over the shift, and what the camera sees; files written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.report.plots import new_figure, rates_with_intervals, save

Measured = Sequence[tuple[float, int, int]]
"""Shift, successes and rollouts of each point."""


def plot_shifts(panels: Mapping[str, Mapping[str, Measured]], path: Path) -> None:
    """Plot one panel per direction: success rate over the shift with its interval, one line per checkpoint.

    Args:
        panels: Caption of the horizontal axis to label to points, in order of the shift; a label may lack points.
        path: PNG file to write.
    """
    figure = new_figure(max(5.0, 4.5 * len(panels)), 4)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (caption, lines) in zip(row, panels.items(), strict=True):
        shifts = [shift for measured in lines.values() for shift, _, _ in measured]
        # Error bars of several checkpoints at one shift would hide each other.
        gap = 0.06 / max(len(lines), 3) * (max(shifts, default=0.0) - min(shifts, default=0.0))
        for number, (label, measured) in enumerate(lines.items()):
            places = [shift + (number - (len(lines) - 1) / 2) * gap for shift, _, _ in measured]
            rates, errors = rates_with_intervals([(successes, rollouts) for _, successes, rollouts in measured])
            axes.errorbar(places, rates, yerr=errors, fmt="o-", capsize=3, markersize=4, label=label)
        axes.set(xlabel=caption, ylim=(-2, 102), xticks=sorted(set(shifts)))
        axes.grid(alpha=0.3)
    row[0].set_ylabel("success rate, %, with 95 % Wilson interval")
    if len(labels := next(iter(panels.values()))) > 1:
        # Above the lines, of which it would hide some.
        figure.legend(
            *row[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(labels), 3), fontsize=8
        )
    save(figure, path)


def plot_views(images: Mapping[str, Path], path: Path) -> None:
    """Draw the images beside one another, each with its name.

    Args:
        images: Name to PNG file, at least one.
        path: PNG file to write.
    """
    from matplotlib.image import imread

    figure = new_figure(1.6 * len(images), 1.9)
    for axes, (name, file) in zip(figure.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True):
        axes.imshow(imread(file))
        axes.set_title(name, fontsize=8)
        axes.set_axis_off()
    save(figure, path)
