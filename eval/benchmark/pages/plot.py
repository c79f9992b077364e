"""Draw a benchmark: latency and training throughput of each policy. The file is written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark.pages.report import trained_at
from eval.report.plots import new_figure, save


def plot(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int], path: Path) -> None:
    """Plot latency from P50 to P95 and training throughput, both logarithmic, to ``path``."""
    figure = new_figure(11, 1.8 + 0.55 * len(rows))
    acting, training = figure.subplots(1, 2, sharey=True)
    for number, (part, label) in enumerate((("model", "model-only"), ("sensor", "sensor-to-action"))):
        low = np.array([row[part]["p50_ms"] for row in rows])
        high = np.array([row[part]["p95_ms"] for row in rows])
        heights = np.arange(len(rows)) + 0.36 * (number - 0.5)
        acting.barh(heights, low, 0.34, label=label, xerr=[0 * low, high - low], capsize=3)
    for number, size in enumerate(sorted(sizes)):
        places = [(row, found) for row, one in enumerate(rows) if (found := trained_at(one, size))]
        heights = [row + 0.8 * ((number + 0.5) / len(sizes) - 0.5) for row, _ in places]
        speeds = [found["samples_per_s"] for _, found in places]
        training.barh(heights, speeds, 0.75 / len(sizes), label=f"batch {size}")
    acting.set_yticks(range(len(rows)), [row["policy"] for row in rows])
    acting.invert_yaxis()
    acting.set(xlabel="ms per chunk: bar P50, whisker P95", xscale="log")
    training.set(xlabel="training samples per second", xscale="log")
    for axes in (acting, training):
        axes.grid(alpha=0.3, axis="x", which="both")
        axes.legend(fontsize=8, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    save(figure, path)
