"""The demo's figures: what LeRobot's own commands leave behind, its table and its plot."""

import json
from pathlib import Path

import pytest

from eval.common.lerobot_results import TaskResult, read_eval_info, read_training_curve, success_table, total
from eval.report.plots import plot_run


def results() -> list[TaskResult]:
    return [
        TaskResult("libero_spatial", 0, (True,) * 19 + (False,), (Path("videos/a.mp4"),)),
        TaskResult("libero_spatial", 3, (True, False), ()),
    ]


def test_table_has_a_row_per_task_and_a_total():
    table = success_table(results(), {0: "pick up the bowl"})
    assert "| libero_spatial | 0 | pick up the bowl | 19/20 = 95.0 % [76.4, 99.1] |" in table
    assert total(results()) == (20, 22)
    assert "20/22 = 90.9 % [72.2, 97.5]" in table.splitlines()[-1]


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


def test_losses_below_zero_are_read_and_those_that_are_not_finite_count_as_steps(tmp_path):
    log = tmp_path / "train.log"
    losses = ("0.500", "-0.250", "nan", "inf", "-inf", "0.100")
    log.write_text("".join(f"INFO step:1K smpl:1K loss:{loss} grdn:1.0\n" for loss in losses))
    assert read_training_curve(log, 100) == [(100, 0.5), (200, -0.25), (600, 0.1)]


def test_plot_is_written(tmp_path):
    plot_run([(20, 0.5), (40, 0.3)], results(), tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
