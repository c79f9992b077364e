"""Make the figures of the README: ``python docs/make_figures.py --run=FOLDER`` from the root of the repository.

``docs/images/rollouts.gif`` shows the first rollout of every task of a run of ``eval.run --videos=1``, failures
included; ``docs/images/success.png`` shows the success rates of a report. ``architecture.svg`` is drawn by hand.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

IMAGES = Path(__file__).parent / "images"
REPORT = Path("eval/results/replan_displaced/report.json")
COLUMNS, TILE, BAR = 5, 144, 16
"""Tiles per row; side of a tile and height of its caption, pixels."""
EVERY, FRAMES_PER_SECOND = 5, 8
"""Every fifth frame of a video with 20 frames per second, shown at twice the robot's speed."""
SCENE = (
    "between plate and ramekin",
    "next to the ramekin",
    "table center",
    "on the cookie box",
    "in the drawer",
)
SCENE += ("on the ramekin", "next to the cookie box", "on the stove", "next to the plate", "on the cabinet")
"""Where the bowl is in the ten tasks of libero_spatial."""
GREEN, RED, GRAY = (30, 130, 50), (170, 40, 40), (70, 70, 70)
COLORS = ("#1f77b4", "#9ecae1", "#e6a04a", "#9a9a9a")


def rollouts_gif(run: Path, path: Path) -> None:
    """Write a GIF of the first rollout of each task, side by side; a finished rollout keeps its last frame.

    Args:
        run: Folder of a finished run, with ``rollouts.jsonl`` and ``videos/``.
        path: File to write.

    Raises:
        SystemExit: If the run has no video of a task's first rollout.
    """
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    first = sorted((rollout for rollout in rollouts if not rollout["init_state"]), key=lambda one: one["task_id"])
    if not first or not all(rollout["video"] for rollout in first):
        raise SystemExit(f"{run} lacks videos of the first rollouts; run eval.run with --videos=1.")
    # The caption below the square frame is replaced by one that can be read at this size.
    videos = [iio.imread(run / rollout["video"], plugin="pyav")[::EVERY] for rollout in first]
    frames = []
    for time in range(max(map(len, videos)) + 2 * FRAMES_PER_SECOND):
        tiles = [
            _tile(video[min(time, len(video) - 1)], rollout, finished=time >= len(video) - 1)
            for video, rollout in zip(videos, first, strict=True)
        ]
        rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
        frames.append(Image.fromarray(np.concatenate(rows)))
    # One palette for all frames: pixels that do not change cost nothing.
    palette = frames[-1].quantize(96)
    first_frame, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first_frame.save(path, save_all=True, append_images=others, duration=1000 // FRAMES_PER_SECOND, loop=0)


def _tile(frame: np.ndarray, rollout: dict, *, finished: bool) -> np.ndarray:
    side = frame.shape[0] - BAR  # with --overlay=true, the attention is beside the scene
    outcome = "success" if rollout["success"] else "failure"
    text = outcome if finished else SCENE[rollout["task_id"]]
    color = (GREEN if rollout["success"] else RED) if finished else GRAY
    tile = Image.new("RGB", (TILE, TILE + BAR), color)
    tile.paste(Image.fromarray(frame[:side, :side]).resize((TILE, TILE), Image.Resampling.LANCZOS))
    ImageDraw.Draw(tile).text((4, TILE + 1), text, fill="white", font=ImageFont.load_default(10))
    return np.asarray(tile)


def success_plot(report: Path, path: Path) -> None:
    """Draw success rates per task with 95 % Wilson intervals.

    Args:
        report: ``report.json`` of ``eval.report`` about one suite, with at most four runs.
        path: PNG file to write.
    """
    runs = json.loads(report.read_text())["runs"]
    figure = Figure(figsize=(8, 1.6 + len(runs)), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(runs)
    for place, (run, color) in enumerate(zip(runs, COLORS[: len(runs)], strict=True)):
        counts = [(task["successes"], task["rollouts"]) for task in run["tasks"]]
        counts.append((sum(k for k, _ in counts), sum(n for _, n in counts)))
        rates, below, above = zip(*(_rate(*count) for count in counts), strict=True)
        heights = np.arange(len(counts)) + width * place - 0.4 + width / 2
        label = f"{run['label']}: {counts[-1][0]}/{counts[-1][1]}"
        axes.barh(heights, rates, 0.95 * width, xerr=(below, above), color=color, ecolor="#444", capsize=2, label=label)
    axes.set_yticks(range(len(counts)), [*SCENE, "all ten tasks"])
    axes.set(xlim=(0, 100), ylim=(len(counts) - 0.5, -0.5), xlabel="success rate, %, with 95 % Wilson interval")
    axes.set_title("objects displaced by up to 6 cm; the bowl is ...", fontsize=9, loc="left", pad=34)
    axes.legend(fontsize=7, ncols=2, frameon=False, loc="lower center", bbox_to_anchor=(0.3, 1.0), borderpad=0)
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _rate(successes: int, rollouts: int) -> tuple[float, float, float]:
    """Return rate in percent, and how far the interval reaches below and above it."""
    rate = successes / rollouts
    interval = binomtest(successes, rollouts).proportion_ci(method="wilson")
    return 100 * rate, 100 * max(0.0, rate - interval.low), 100 * max(0.0, interval.high - rate)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the figures; without ``--run`` the success plot only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a run of eval.run with --videos=1")
    parser.add_argument("--report", type=Path, default=REPORT, help="report.json of eval.report")
    arguments = parser.parse_args(argv)
    success_plot(arguments.report, IMAGES / "success.png")
    if arguments.run:
        rollouts_gif(arguments.run, IMAGES / "rollouts.gif")


if __name__ == "__main__":
    main()
