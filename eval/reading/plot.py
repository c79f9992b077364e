"""The plot of ``eval.reading``: how often the policy did what it was told, by pair of tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.reading.judge import TOLD
from eval.report.plots import new_figure, save

PLOT = "told.png"


def plot_matrix(content: Mapping[str, Any], path: Path) -> None:
    """Plot a square for each pair; those on the diagonal, in brackets, are of the run of ``--nominal``.

    Args:
        content: Of ``report.json``.
        path: File to write.
    """
    tasks = content["tasks"]
    rates = np.full((len(tasks), len(tasks)), np.nan)
    figure = new_figure(4.5 + 0.45 * len(tasks), 3 + 0.4 * len(tasks))
    axes = figure.subplots()
    squares = [(p["state_task"], p["told_task"], p[TOLD], p["rollouts"], "{}/{}") for p in content["pairs"]]
    nominal = content["nominal"] or {"tasks": []}
    squares += [(t["task"], t["task"], t["successes"], t["rollouts"], "({}/{})") for t in nominal["tasks"]]
    for state, told, done, rollouts, text in squares:
        rates[state, told] = 100 * done / rollouts
        color = "white" if rates[state, told] < 60 else "black"  # on viridis
        axes.text(told, state, text.format(done, rollouts), ha="center", va="center", fontsize=8, color=color)
    image = axes.imshow(rates, vmin=0, vmax=100, cmap="viridis")
    axes.set_xticks(range(len(tasks)))
    axes.set_yticks(range(len(tasks)), [f"{instruction}  {task}" for task, instruction in enumerate(tasks)], fontsize=8)
    axes.set(xlabel="told task", ylabel="state of task")
    figure.colorbar(image, ax=axes, label="did what it was told, %", shrink=0.8)
    save(figure, path)
