"""From run folders of a grid to the report: counts, differences, what is unfinished, and what does not belong."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from eval.common.errors import EvalError
from eval.report.results_table import results_block
from eval.robustness.camera_shift.command import main
from eval.robustness.camera_shift.grid import MEANINGS, Grid, Point, read_grid, run_path, view_path, write_grid
from eval.robustness.camera_shift.report import write_report
from eval.robustness.camera_shift.results import read_results
from eval.rollout.run_folder import Rollout, Run, open_log, write_run
from eval.rollout.settings import RunConfig
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift

LEFT, RIGHT, PAN = Point("right_cm", -10.0), Point("right_cm", 5.0), Point("pan_deg", 5.0)
# Successes of 10 at every point.
SUCCESSES = {
    "atlasvla-1": {Point(): 9, RIGHT: 8, LEFT: 9, PAN: 7},
    "act-2": {Point(): 8, RIGHT: 7, LEFT: 1, PAN: 5},
}


def make_grid(**changes) -> Grid:
    grid = Grid(
        command="python -m eval.camera_shift --right_cm='[-10, 5]'",
        labels=["atlasvla-1", "act-2"],
        sweeps={"right_cm": [-10.0, 5.0], "pan_deg": [5.0]},
        suites=["libero_spatial"],
        task_ids=[0],
        seeds=[1000],
        episodes=10,
    )
    return replace(grid, **changes)


def write_point(output, label, point, successes, rollouts=10, **changes) -> Run:
    """A run folder whose first ``successes`` rollouts succeeded."""
    config = RunConfig(
        checkpoint=output,
        output_dir=run_path(output, label, point),
        task_ids=[0],
        episodes=10,
        render_quality="default",
    )
    settings = config.settings(5, {"agentview_image": "image"}, 256) | {"camera_shift": asdict(point.camera_shift)}
    run = Run(
        name=str(point),
        command="python -m eval.camera_shift",
        policy={"checkpoint": f"runs/{label}", "type": label.split("-")[0], "weights_sha256": label * 8},
        training={"steps": 300, "command": f"lerobot-train --policy.type={label}", "loss_curve": [[1, 2.0]]},
        settings=settings | changes.pop("settings", {}),
        versions={"commit": "abc", "torch": "2"},
        simulator={"mujoco": "3.3", "look": "default", "assets": "official"},
        path=run_path(output, label, point),
    )
    run = replace(run, **changes)
    write_run(run)
    with open_log(run.path) as log:
        for state in range(rollouts):
            log.append(Rollout("libero_spatial", 0, "pick", 1000, state, state < successes, 50, 1.5))
    return run


@pytest.fixture
def output(tmp_path):
    """A finished grid."""
    folder = tmp_path / "shift_grid"
    write_grid(make_grid(), folder)
    for label, points in SUCCESSES.items():
        for point, successes in points.items():
            write_point(folder, label, point, successes)
    return folder


def run_report(output, tmp_path, *arguments) -> int:
    """Through the command, as a user would."""
    reports = tmp_path / "reports"
    return main([f"--output_dir={output}", "--report_only=true", f"--reports={reports}", "--name=a_shift", *arguments])


def report(output, tmp_path, *arguments) -> tuple[str, dict]:
    assert run_report(output, tmp_path, *arguments) == 0
    folder = tmp_path / "reports/a_shift"
    assert sorted(file.name for file in folder.iterdir() if file.name[0] == ".") == []
    return (folder / "report.md").read_text(), json.loads((folder / "report.json").read_text())


def test_a_grid_that_was_begun_when_runs_said_less_of_their_assets_is_reported(output, tmp_path):
    """eval.run continues it, so the report must not refuse it."""
    now = {"mujoco": "3.3", "look": "default", "assets": "official (verified)", "assets_note": "bowl replaced"}
    write_point(output, "act-2", PAN, 5, simulator=now)
    assert "| act-2 | 8/10" in report(output, tmp_path)[0]
    write_point(output, "act-2", PAN, 5, simulator=now | {"assets": "stand-in"})
    assert run_report(output, tmp_path) == 1


def test_meanings_are_those_of_the_simulator():
    assert list(MEANINGS) == list(asdict(CameraShift()))
    # The words that carry the sign are the simulator's own.
    documented = " ".join((CameraShift.__doc__ or "").split())
    for direction in ("up_cm", "forward_cm", "tilt_deg", "roll_deg"):
        assert MEANINGS[direction].split("; ")[1] in documented


def test_the_report_has_the_numbers(output, tmp_path, capsys):
    text, content = report(output, tmp_path)
    # 9 + 8 + 9 + 7 of the first checkpoint.
    total = "total: 33/40 = 82.5 % [68.1, 91.3]"
    assert total in text.splitlines()
    assert f"total: {content['total']}" == total
    assert capsys.readouterr().out.splitlines()[-1] == total
    assert "incomplete" not in text
    assert "| atlasvla-1 | not measured | not measured | not measured |" in text
    assert content["complete"] is True
    # (8 + 9 + 7) / 30 and (7 + 1 + 5) / 30: the unshifted camera is not in it.
    for row in ("| atlasvla-1 | 9/10 = 90.0 % [59.6, 98.2] | ", "| act-2 | 8/10 = 80.0 % [49.0, 94.3] | "):
        assert row in text
    # The smallest shift of either direction, then what is farther.
    assert "| unshifted | right_cm +5; pan_deg +5 | right_cm -10 | all shifted points |" in text
    assert "| 15/20 = 75.0 % [53.1, 88.8] | 9/10 = 90.0 % [59.6, 98.2] | 24/30 = 80.0 % [62.7, 90.5] |" in text
    assert "| 13/30 = 43.3 % [27.4, 60.8] |" in text
    assert [entry["mean_shifted"] for entry in content["totals"]] == pytest.approx([0.8, 13 / 30])
    assert content["totals"][0]["rings"] == pytest.approx([0.75, 0.9])


def test_every_sweep_is_a_table_with_the_unshifted_point(output, tmp_path):
    text, content = report(output, tmp_path)
    rows = [line.split(" | ") for line in text.split("## right_cm")[1].split("## ")[0].splitlines() if "/10" in line]
    assert [row[0] for row in rows] == ["| -10", "| 0 (unshifted)", "| +5"]
    assert rows[0][1:3] == ["9/10 = 90.0 % [59.6, 98.2]", "1/10 = 10.0 % [1.8, 40.4]"]
    # Newcombe's interval of 9/10 against 1/10, from the Wilson limits by hand.
    low = 80 - math.hypot(90.0 - 59.585, 40.415 - 10.0)
    high = 80 + math.hypot(98.212 - 90.0, 10.0 - 1.788)
    assert rows[0][3:] == [f"+80.0 points [{low:.1f}, {high:.1f}]", "atlasvla-1 ahead |"]
    assert rows[1][4] == "noise |"
    assert "positive to its right" in text
    assert "positive looks up" not in text
    assert "| +5 | 7/10" in text.split("## pan_deg")[1]
    unshifted = [point for point in content["points"] if point["direction"] == "unshifted"]
    assert [(point["label"], point["shift"], point["successes"]) for point in unshifted] == [
        ("atlasvla-1", 0.0, 9),
        ("act-2", 0.0, 8),
    ]
    assert len(content["points"]) == 8
    assert content["points"][0]["interval"] == pytest.approx([0.596, 0.982], abs=1e-3)
    assert [d["verdict"] for d in content["differences"] if d["shift"] == -10] == ["atlasvla-1 ahead"]


def test_the_second_checkpoint_can_be_ahead(output, tmp_path):
    (run_path(output, "act-2", LEFT) / "rollouts.jsonl").unlink()
    (run_path(output, "atlasvla-1", LEFT) / "rollouts.jsonl").unlink()
    write_point(output, "act-2", LEFT, 10)
    write_point(output, "atlasvla-1", LEFT, 0)
    text, _ = report(output, tmp_path)
    assert "| act-2 ahead |" in text


def test_provenance(output, tmp_path):
    write_point(output, "act-2", PAN, 0, rollouts=0, versions={"commit": "def", "torch": "2"})
    text, content = report(output, tmp_path)
    assert content["command"] == make_grid().command
    assert content["kind"] == "camera_shift"
    assert content["versions"] == {"commit": "abc, def", "torch": "2"}
    assert content["settings"]["seeds"] == [1000]
    assert [entry["policy"]["type"] for entry in content["checkpoints"]] == ["atlasvla", "act"]
    for part in (make_grid().command, "lerobot-train --policy.type=act-2", "abc, def", "official"):
        assert part in text
    assert str(tmp_path) not in text


def test_unfinished_points_are_named_and_not_counted(output, tmp_path):
    for name, kept in (("act-2", 3), ("atlasvla-1", 9)):
        log = run_path(output, name, LEFT) / "rollouts.jsonl"
        log.write_text("\n".join(log.read_text().splitlines()[:kept]) + '\n{"suite": "libe')
    for file in run_path(output, "act-2", PAN).iterdir():
        file.unlink()
    text, content = report(output, tmp_path)
    assert "**incomplete: 3 of 4 points of atlasvla-1, 2 of 4 points of act-2.**" in text
    assert "total: 24/30 = 80.0 % [62.7, 90.5]" in text.splitlines()
    assert "| -10 | unfinished: 9 of 10 | unfinished: 3 of 10 | - | - |" in text
    assert "| +5 | 7/10 = 70.0 % [39.7, 89.2] | unfinished: 0 of 10 | - | - |" in text
    assert content["complete"] is False
    assert [(p["label"], p["rollouts"]) for p in content["unfinished"]] == [
        ("atlasvla-1", 9),
        ("act-2", 0),
        ("act-2", 3),
    ]
    # Only right_cm=5 is finished by both.
    assert [entry["mean_shifted"] for entry in content["totals"]] == pytest.approx([0.8, 0.7])


def test_one_checkpoint_alone(output, tmp_path):
    write_grid(make_grid(labels=["act-2"]), output)
    text, content = report(output, tmp_path)
    assert "total: 21/40" in text
    assert "| -10 | 1/10 = 10.0 % [1.8, 40.4] |" in text.splitlines()
    assert content["differences"] == []


def test_rollouts_of_an_earlier_larger_grid_are_left_out(output, tmp_path):
    write_grid(make_grid(episodes=8), output)
    text, _ = report(output, tmp_path)
    # The first 8 states of 9, 8, 9 and 7 successes.
    assert "total: 31/32" in text


def test_pictures(output, tmp_path):
    text, _ = report(output, tmp_path)
    folder = tmp_path / "reports/a_shift"
    assert Image.open(folder / "success.png").width > 800
    assert "views.png" not in text
    assert not (folder / "views.png").exists()
    for point in make_grid().extremes():
        file = view_path(output, point)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    text, _ = report(output, tmp_path)
    assert "(views.png)" in text
    assert Image.open(folder / "views.png").width > 600
    for point in make_grid().extremes():
        view_path(output, point).unlink()
    report(output, tmp_path)
    assert not (folder / "views.png").exists()


def test_every_line_is_drawn_beside_the_other(output, monkeypatch, tmp_path):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, **rest: drawn.append((x, y, rest["label"])))
    monkeypatch.setattr(Axes, "legend", lambda self, **_: None)
    write_report(read_results(output), tmp_path / "a_shift")
    assert [(label, rates) for _, rates, label in drawn] == [
        ("atlasvla-1", [90, 90, 80]),
        ("act-2", [10, 80, 70]),
        ("atlasvla-1", [90, 70]),
        ("act-2", [80, 50]),
    ]
    for first, second, shifts in ((drawn[0], drawn[1], [-10, 0, 5]), (drawn[2], drawn[3], [0, 5])):
        assert first[0] == pytest.approx(shifts, abs=0.5)
        assert all(left < right for left, right in zip(first[0], second[0], strict=True))


def test_notes_are_put_in_as_they_are_and_a_rerun_replaces_the_report(output, tmp_path):
    note = tmp_path / "note.md"
    note.write_text("The light *differs*.\n")
    text, _ = report(output, tmp_path, f"--note={note}")
    assert "## Notes\n\nThe light *differs*.\n" in text
    text, _ = report(output, tmp_path)
    assert "The light *differs*." in text
    note.write_text("")
    text, _ = report(output, tmp_path, f"--note={note}")
    assert "Notes" not in text


def test_a_report_of_another_kind_is_not_replaced(output, tmp_path, capsys):
    file = tmp_path / "reports/a_shift/report.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"kind": "rollouts", "schema_version": 1}')
    assert run_report(output, tmp_path) == 1
    assert "holds a report of kind 'rollouts'; choose another --name" in capsys.readouterr().err
    assert "rollouts" in file.read_text()


def test_the_table_of_results_takes_it(output, tmp_path):
    report(output, tmp_path)
    block = results_block(tmp_path / "reports", tmp_path / "README.md")
    row = next(line for line in block.splitlines() if "| act-2 |" in line)
    assert row.startswith("| [a_shift](reports/a_shift/report.md) | act-2 | 8/10 = 80.0 % [49.0, 94.3] |")
    for extreme in ("right_cm -10: 1/10 = 10.0 %", "right_cm +5: 7/10 = 70.0 %", "pan_deg +5: 5/10 = 50.0 %"):
        assert extreme in row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"look": "fast"}}, "its render_quality is fast, expected default"),
        ({"settings": {"camera_shift": asdict(CameraShift(right_cm=-9))}}, "'right_cm': -9"),
        ({"policy": {"weights_sha256": "other"}}, "its weights_sha256 is other"),
        ({"simulator": {"mujoco": "3.4", "look": "default", "assets": "official"}}, "mujoco is 3.4, expected 3.3"),
        ({"settings": {"n_action_steps": 1}}, "its n_action_steps is 1, expected 5"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(output, tmp_path, changes, message, capsys):
    run = write_point(output, "act-2", LEFT, 1, rollouts=0, **changes)
    assert run_report(output, tmp_path) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(run.path) in error


def test_checkpoints_may_differ_in_how_they_are_asked_but_not_in_the_scene(output, tmp_path, capsys):
    for point in SUCCESSES["act-2"]:
        write_point(output, "act-2", point, 0, rollouts=0, settings={"n_action_steps": 1})
    _, content = report(output, tmp_path)
    assert [entry["settings"]["n_action_steps"] for entry in content["checkpoints"]] == [5, 1]
    for point in SUCCESSES["act-2"]:
        write_point(output, "act-2", point, 0, rollouts=0, settings={"image_size": 64})
    assert run_report(output, tmp_path) == 1
    assert "its image_size is 64, expected 256" in capsys.readouterr().err


def test_no_finished_point_and_no_grid(tmp_path, capsys):
    folder = tmp_path / "shift"
    assert run_report(folder, tmp_path) == 1
    assert "it has no grid.json" in capsys.readouterr().err
    write_grid(make_grid(), folder)
    assert run_report(folder, tmp_path) == 1
    assert "No point of atlasvla-1" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_a_grid_survives_its_file_and_a_damaged_one_is_refused(tmp_path):
    write_grid(make_grid(), tmp_path)
    assert read_grid(tmp_path) == make_grid()
    written = (tmp_path / "grid.json").read_text()
    (tmp_path / "grid.json").write_text('{"schema_version": 1, "command": ""}')
    with pytest.raises(EvalError, match=r"not what eval\.camera_shift writes"):
        read_grid(tmp_path)
    content = json.loads(written) | {"labels": ["../../elsewhere"]}
    (tmp_path / "grid.json").write_text(json.dumps(content))
    with pytest.raises(EvalError, match="cannot name a folder"):
        read_grid(tmp_path)
    (tmp_path / "grid.json").write_text('{"schema_version": 2}')
    with pytest.raises(EvalError, match="schema version 2"):
        read_grid(tmp_path)


def test_rollouts_per_point_of_all_tasks():
    assert make_grid(task_ids=None).rollouts_per_point == 100
    assert make_grid(task_ids=None, suites=["libero_10", "libero_90"], seeds=[1, 2]).rollouts_per_point == 2000


def test_the_title_says_that_objects_are_displaced(output, tmp_path):
    text, _ = report(output, tmp_path)
    assert "displaced" not in text.splitlines()[0]
    folder = tmp_path / "displaced_shift"
    write_grid(make_grid(), folder)
    for label, points in SUCCESSES.items():
        for point, successes in points.items():
            write_point(folder, label, point, successes, settings={"displace_cm": 6.0})
    text, _ = report(folder, tmp_path)
    assert "objects displaced by up to 6 cm" in text.splitlines()[0]
