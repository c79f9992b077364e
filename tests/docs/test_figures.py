"""The figures of the README are made from a run and a report, and from nothing else."""

import importlib.util
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT

LENGTHS = {0: 10, 1: 30}


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs/make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(folder: Path) -> Path:
    """Two tasks, a success and a failure, and a second rollout that is not to be shown."""
    (folder / "videos").mkdir()
    rollouts = []
    for task, length in LENGTHS.items():
        video = f"videos/{task}.mp4"
        iio.imwrite(
            folder / video, np.full((length, 80, 64, 3), 40 * task, np.uint8), fps=20, plugin="pyav", codec="h264"
        )
        rollouts.append({"task_id": task, "init_state": 0, "success": not task, "video": video})
    rollouts.append({"task_id": 0, "init_state": 1, "success": False, "video": None})
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(rollout) + "\n" for rollout in rollouts))
    return folder


def test_the_gif_shows_every_task_to_its_end(figures, tmp_path):
    figures.rollouts_gif(write_run(tmp_path), tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.size == (2 * figures.TILE, figures.TILE + figures.BAR)
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("RGB")).astype(int)
    corners = [last[-2, figures.TILE * place + figures.TILE - 2] for place in (0, 1)]
    np.testing.assert_allclose(corners, [figures.GREEN, figures.RED], atol=12)


def test_a_run_without_videos_is_refused(figures, tmp_path):
    (tmp_path / "rollouts.jsonl").write_text(json.dumps({"task_id": 0, "init_state": 0, "video": None}))
    with pytest.raises(SystemExit, match="--videos=1"):
        figures.rollouts_gif(tmp_path, tmp_path / "x.gif")


def test_the_success_plot_is_drawn_from_the_report(figures, tmp_path):
    figures.success_plot(ROOT / figures.REPORT, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 600
    assert figures._rate(0, 10)[:2] == (0, 0)
    np.testing.assert_allclose(figures._rate(71, 100), (71, 71 - 61.5, 79.0 - 71), atol=0.05)
