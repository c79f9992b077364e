"""Figures of the report: intervals against published values, parsing, and what must be refused."""

import json
from pathlib import Path

import pytest

from eval.report import (
    TaskResult,
    format_rate,
    plot_run,
    read_eval_info,
    read_training_curve,
    success_table,
    total,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "rollouts", "low", "high"),
    # 81/263 and 15/148 are Newcombe's worked examples (Statistics in Medicine 17, 1998, table I, method 3).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_interval(successes, rollouts, low, high):
    assert wilson_interval(successes, rollouts) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "rollouts"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes, rollouts):
    with pytest.raises(ValueError, match=f"got {successes} of {rollouts}"):
        wilson_interval(successes, rollouts)


def results() -> list[TaskResult]:
    return [
        TaskResult("libero_spatial", 0, (True,) * 19 + (False,), (Path("videos/a.mp4"),)),
        TaskResult("libero_spatial", 3, (True, False), ()),
    ]


def test_table_has_a_row_per_task_and_a_total():
    table = success_table(results(), {0: "pick up the bowl"})
    assert "| libero_spatial | 0 | pick up the bowl | 19/20 = 95.0 % [76.4, 99.1] |" in table
    assert total(results()) == (20, 22)
    assert format_rate(20, 22) in table.splitlines()[-1]


def test_eval_info_is_read_and_an_empty_one_refused(tmp_path):
    file = tmp_path / "eval_info.json"
    entry = {
        "task_group": "libero_spatial",
        "task_id": 3,
        "metrics": {"successes": [True, False], "video_paths": ["v.mp4"]},
    }
    file.write_text(json.dumps({"per_task": [entry]}))
    assert read_eval_info(file) == [TaskResult("libero_spatial", 3, (True, False), (Path("v.mp4"),))]
    file.write_text(json.dumps({"per_task": [entry | {"metrics": {"successes": []}}]}))
    with pytest.raises(ValueError, match="no rollouts"):
        read_eval_info(file)


def test_training_curve_counts_steps_itself(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "INFO step:950 smpl:1K ep:3 epch:0.1 loss:0.500 grdn:1.0 lr:1.0e-03 l1_loss:0.500\n"
        "noise loss:9.999\n"
        "INFO step:1K smpl:1K ep:3 epch:0.1 loss:0.250 grdn:1.0 lr:1.0e-03 l1_loss:0.250\n"
    )
    assert read_training_curve(log, 50) == [(50, 0.5), (100, 0.25)]


def test_plot_is_written(tmp_path):
    plot_run([(20, 0.5), (40, 0.3)], results(), tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
