"""Frames of rollouts on one page: a row per rollout, from its first frame to its last."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.common.lerobot_results import TaskResult
from eval.report.plots import new_figure, save

COLUMNS = 6
ROWS = 3
"""At most so many rows of failures, and as many of successes."""


def filmed_rollouts(results: Sequence[TaskResult]) -> list[tuple[str, bool, Path]]:
    """Return name, success and video of the first failures and successes that were filmed, failures first."""
    filmed = [
        (f"{result.suite} {result.task_id}, rollout {number}", success, video)
        for result in results
        # LeRobot films the first rollouts, in order.
        for number, (success, video) in enumerate(zip(result.successes, result.videos, strict=False))
        if video.is_file()
    ]
    failures, successes = ([one for one in filmed if one[1] is wanted][:ROWS] for wanted in (False, True))
    return failures + successes


def read_frames(video: Path, count: int) -> list[np.ndarray]:
    """Return frames spread evenly over a video, the first and the last among them; each (H, W, 3) uint8."""
    import av

    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def draw_contact_sheet(rollouts: Sequence[tuple[str, bool, Path]], path: Path) -> None:
    """Draw the rollouts of :func:`filmed_rollouts`, at least one, and write them to ``path``."""
    figure = new_figure(1.5 * COLUMNS, 1.7 * len(rollouts))
    grid = figure.subplots(len(rollouts), COLUMNS, squeeze=False)
    for row, (name, success, video) in zip(grid, rollouts, strict=True):
        for axes, frame in zip(row, read_frames(video, COLUMNS), strict=True):
            axes.imshow(frame)
            axes.set_axis_off()
        row[0].set_title(f"{name}: {'success' if success else 'failure'}", fontsize=8, loc="left")
    save(figure, path)
