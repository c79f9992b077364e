"""From run folders to a report: every figure by hand, and what must be refused."""

import json
from pathlib import Path

import pytest

from eval.report.command import main
from eval.report.data import enumeration, read_runs
from tests.eval.run_folders import TRAINING, make_run, rollouts_of

# Task 0: 3 of 4, median of 50, 60 and 100 is 60; task 3: 1 of 4.
MINE = [*rollouts_of(0, [60, 0, 50, 100]), *rollouts_of(3, [0, 70, 0, 0])]
OTHER = [*rollouts_of(0, [0, 0, 55, 0]), *rollouts_of(3, [0, 0, 0, 0])]
TOTAL = "4/8 = 50.0 % [21.5, 78.5]"


def report(tmp_path, *arguments, status=0):
    assert main([f"--reports={tmp_path / 'reports'}", *arguments]) == status


def written(tmp_path, name="mine"):
    folder = tmp_path / "reports" / name
    return (folder / "report.md").read_text(), json.loads((folder / "report.json").read_text()), folder


def test_figures_of_one_run(tmp_path, capsys):
    run = make_run(tmp_path / "mine", MINE, training=TRAINING)
    report(tmp_path, f"--run={run}", "--title=A title")
    text, content, folder = written(tmp_path)
    lines = text.splitlines()
    assert lines[0] == "# A title"
    assert lines.count(f"total: {TOTAL}") == 1
    assert "| libero_spatial | 0 | pick up the bowl | 3/4 = 75.0 % [30.1, 95.4] | 60 [50-100] |" in lines
    assert "| libero_spatial | 3 | open the drawer | 1/4 = 25.0 % [4.6, 69.9] | 70 [70-70] |" in lines
    assert f"| all |  |  | {TOTAL} | 65 [50-100] |" in lines
    assert "| libero_spatial 3 | 1000 | 0, 2, 3 |" in lines
    assert "incomplete" not in text
    assert "## Notes" not in text
    assert "Wilson" in text
    assert "training-seed noise" in text
    for fact in (
        TRAINING["command"],
        "--output_dir=outputs/mine",
        "- commit: abc123",
        "- mujoco: 3.3.2",
        "- gl: egl",
        "- render quality: default",
        "- assets: official",
        "- dataset: local/spatial",
        "- seeds: 1000",
        "- settle_steps: 10",
        "- camera shift: none",
        "- displacement of the objects: none",
        "- seconds per rollout: 2.0 (median), 16 in all",
    ):
        assert fact in text
    assert content["kind"] == "rollouts"
    assert content["total"] == TOTAL
    assert (content["successes"], content["rollouts"], content["rate"]) == (4, 8, 0.5)
    assert content["interval"] == pytest.approx([0.2152, 0.7848], abs=1e-4)
    assert content["runs"][0]["tasks"][0]["steps_to_success"] == {"median": 60, "min": 50, "max": 100}
    assert len(content["runs"][0]["rollout_rows"]) == 8
    for name in ("success.png", "steps.png", "loss.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in text
    assert capsys.readouterr().out.splitlines()[-1] == f"total: {TOTAL}"


def test_report_holds_the_rollouts_themselves(tmp_path):
    run = make_run(tmp_path / "mine", reversed(MINE))
    report(tmp_path, f"--run={run}")
    (entry,) = read_runs(tmp_path / "reports/mine")
    assert list(entry.run.rollouts) == MINE
    assert entry.run.settings == read_runs(run)[0].run.settings
    # A rollout is a line of the file.
    assert (
        '["libero_spatial", 0, 1000, 1, false, 280, 2.0, null]' in (tmp_path / "reports/mine/report.json").read_text()
    )


def test_displaced_objects_are_named_at_the_top_and_kept_with_the_rollouts(tmp_path):
    rollouts = rollouts_of(0, [60, 0], displacement_cm=(-3.25, 8.0))
    settings = {"displace_cm": 8.0, "task_ids": [0], "episodes": 2}
    displaced = make_run(tmp_path / "displaced", rollouts, settings=settings)
    stock = make_run(tmp_path / "stock", MINE)
    report(tmp_path, f"--run={displaced}")
    text, _, folder = written(tmp_path, "displaced")
    assert text.splitlines()[0] == "# LIBERO rollouts, objects displaced by up to 8 cm: displaced"
    assert "- displacement of the objects: up to 8 cm" in text
    (entry,) = read_runs(folder)
    assert list(entry.run.rollouts) == rollouts
    report(tmp_path, f"--run=[{folder}, {stock}]", "--name=both")
    text, _, _ = written(tmp_path, "both")
    assert text.splitlines()[0] == "# LIBERO rollouts: displaced (objects displaced by up to 8 cm) and stock"
    report(tmp_path, f"--run={displaced}", "--title=Of no meaning")
    assert "displaced: all objects displaced by up to 8 cm along x and along y." in written(tmp_path, "displaced")[0]


def test_a_report_made_before_objects_could_be_displaced_is_read(tmp_path):
    report(tmp_path, f"--run={make_run(tmp_path / 'mine', MINE)}")
    _, content, folder = written(tmp_path)
    del content["runs"][0]["settings"]["displace_cm"]
    (folder / "report.json").write_text(json.dumps(content))
    (entry,) = read_runs(folder)
    assert entry.run.settings["displace_cm"] == 0


def test_failures_with_videos_come_first(tmp_path):
    filmed = rollouts_of(3, [0], video="videos/failure.mp4")
    run = make_run(tmp_path / "mine", [*rollouts_of(0, [0, 50, 0]), *filmed])
    report(tmp_path, f"--run={run}")
    text, _, _ = written(tmp_path)
    row = "| libero_spatial 3 | 1000 | 0 | 280 | `mine/videos/failure.mp4` |"
    assert text.index("## Failures of mine: 3") < text.index(row) < text.index("| libero_spatial 0 | 1000 | 0, 2 |")
    assert "not in the repository" in text
    assert str(tmp_path) not in text


def test_unfinished_run_says_so_at_the_top(tmp_path, capsys):
    run = make_run(tmp_path / "mine", MINE[:5])
    with (run / "rollouts.jsonl").open("a") as file:
        file.write('{"suite": "libero_spatial", "task_id": 3, "succ')
    report(tmp_path, f"--run={run}")
    text, content, _ = written(tmp_path)
    assert text.index("incomplete: 5 of 8") < text.index("total: 3/5")
    assert content["incomplete"] == ["mine: incomplete: 5 of 8"]
    assert "incomplete: 5 of 8" in capsys.readouterr().out


def test_all_tasks_of_a_suite_are_counted(tmp_path):
    run = make_run(tmp_path / "mine", MINE, settings={"task_ids": None, "seeds": [1000, 2000]})
    report(tmp_path, f"--run={run}")
    assert "incomplete: 8 of 80" in written(tmp_path)[0]


def test_single_failed_rollout(tmp_path):
    settings = {"task_ids": [0], "episodes": 1}
    run = make_run(tmp_path / "mine", rollouts_of(0, [0]), settings=settings)
    report(tmp_path, f"--run={run}")
    text, content, folder = written(tmp_path)
    assert "total: 0/1 = 0.0 % [0.0, 79.3]" in text.splitlines()
    assert "| 0/1 = 0.0 % [0.0, 79.3] | no success |" in text
    assert content["runs"][0]["tasks"][0]["steps_to_success"] is None
    assert "command: not recorded" in text
    assert "says nothing about its training" in text
    assert "loss curve: not recorded" in text
    assert sorted(file.name for file in folder.iterdir()) == ["report.json", "report.md", "success.png"]


def test_seeds_and_their_mean(tmp_path):
    # 3 of 4 and 2 of 4; only state 0 comes out the same.
    rollouts = [*rollouts_of(0, [60, 0, 50, 100]), *rollouts_of(0, [60, 70, 0, 0], seed=2000)]
    run = make_run(tmp_path / "mine", rollouts, settings={"seeds": [1000, 2000], "task_ids": [0]})
    report(tmp_path, f"--run={run}")
    text, content, _ = written(tmp_path)
    assert "| 1000 | 3/4 = 75.0 % [30.1, 95.4] |" in text
    assert "| 2000 | 2/4 = 50.0 % [15.0, 85.0] |" in text
    # (0.75 + 0.5) / 2, and 0.25 / sqrt(2).
    assert "Mean over 2 seeds: 62.5 %, standard deviation 17.7 points." in text
    assert "1 of 4 initial states came out the same at every seed." in text
    assert content["runs"][0]["mean_over_seeds"] == 0.625


@pytest.mark.parametrize("settings", [{"init_states": False}, {"displace_cm": 6.0}])
def test_seeds_with_placements_of_their_own_are_not_said_to_agree(tmp_path, settings):
    rollouts = [*rollouts_of(0, [50, 60], seed=1000), *rollouts_of(0, [50, 0], seed=2000)]
    run = make_run(tmp_path / "mine", rollouts, settings=settings | {"seeds": [1000, 2000], "task_ids": [0]})
    report(tmp_path, f"--run={run}")
    text, _, _ = written(tmp_path)
    assert "Mean over 2 seeds: 75.0 %" in text
    assert "came out the same at every seed" not in text
    assert "Every seed starts from the same" not in text


def test_runs_side_by_side(tmp_path):
    mine, other = make_run(tmp_path / "mine", MINE), make_run(tmp_path / "other", OTHER)
    report(tmp_path, f"--run=[{mine}, {other}]", "--labels=[AtlasVLA, ACT]", "--name=both")
    text, content, _ = written(tmp_path, "both")
    assert f"total: {TOTAL}" in text.splitlines()
    assert "| ACT | atlasvla | total: 1/8 = 12.5 % [2.2, 47.1] |" in text
    row = "| pick up the bowl | 3/4 = 75.0 % [30.1, 95.4] | 60 [50-100] | 1/4 = 25.0 % [4.6, 69.9] | 55 [55-55] |"
    assert row in text
    # Newcombe by hand: 0.375 - sqrt((0.5 - 0.2152)^2 + (0.4709 - 0.125)^2), 0.375 + sqrt(0.2848^2 + 0.1026^2).
    assert "AtlasVLA minus ACT is +37.5 points [-7.3, 67.8]: this is noise" in text
    assert "both succeed 1, only AtlasVLA 3, only ACT 0, neither 4; McNemar's exact p = 0.25." in text
    assert "| libero_spatial 3 | +25.0 points [-28.1, 69.9] | noise | 0 / 1 / 0 / 3 |" in text
    pair = content["comparisons"][0]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["neither"]) == (1, 3, 0, 4)
    assert [entry["label"] for entry in content["runs"]] == ["AtlasVLA", "ACT"]


def test_report_stands_for_its_runs(tmp_path):
    mine, other, third = (make_run(tmp_path / name, of) for name, of in [("a", MINE), ("b", OTHER), ("c", OTHER)])
    report(tmp_path, f"--run=[{mine}, {other}, {third}]", "--labels=[AtlasVLA, ACT, c]", "--name=of_folders")
    report(tmp_path, f"--run=[{mine}, {other}]", "--labels=[AtlasVLA, ACT]", "--name=both")
    (tmp_path / "both.md").write_text("By hand.")
    report(tmp_path, f"--run=[{tmp_path / 'reports/both'}, {third}]", "--name=of_report")
    texts = [written(tmp_path, name) for name in ("of_folders", "of_report")]
    assert texts[0][0] == texts[1][0]
    assert [entry["label"] for entry in texts[1][1]["runs"]] == ["AtlasVLA", "ACT", "c"]
    assert texts[0][1] | {"name": ""} == texts[1][1] | {"name": ""}
    # The report itself may be the one that gets the run; what is written by hand stays.
    both = tmp_path / "reports/both"
    report(tmp_path, f"--run={both}", "--name=both", f"--note={tmp_path / 'both.md'}")
    report(tmp_path, f"--run=[{both / 'report.json'}, {third}]", "--labels=[A, B, C]", "--name=both")
    text, content, _ = written(tmp_path, "both")
    assert "By hand." in text
    assert [entry["label"] for entry in content["runs"]] == ["A", "B", "C"]


def test_run_without_a_new_label_beside_a_report_of_the_same_run_is_refused(tmp_path, capsys):
    mine = make_run(tmp_path / "mine", MINE)
    report(tmp_path, f"--run={mine}")
    before = (tmp_path / "reports/mine/report.md").read_text()
    report(tmp_path, f"--run=[{tmp_path / 'reports/mine'}, {mine}]", "--name=mine", status=1)
    assert "--labels=['mine', 'mine'] must differ" in capsys.readouterr().err
    assert (tmp_path / "reports/mine/report.md").read_text() == before


def test_runs_of_different_tasks_are_shown_but_not_compared(tmp_path):
    mine = make_run(tmp_path / "mine", MINE)
    other = make_run(tmp_path / "other", rollouts_of(0, [50, 60, 70, 0]), settings={"task_ids": [0], "image_size": 64})
    report(tmp_path, f"--run=[{mine}, {other}]")
    text, content, _ = written(tmp_path, "mine_vs_other")
    assert "| libero_spatial | 3 | open the drawer | 1/4 = 25.0 % [4.6, 69.9] | 70 [70-70] | - | - |" in text
    assert "- tasks: only the first has libero_spatial 3" in text
    assert "- image_size: 256 and 64" in text
    assert "difference" not in content["comparisons"][0]


def test_note_is_verbatim_and_survives_a_new_report(tmp_path):
    run, note = make_run(tmp_path / "mine", MINE[:5]), tmp_path / "note.md"
    note.write_text("It *failed* | twice.\n\n- honestly\n")
    report(tmp_path, f"--run={run}", f"--note={note}")
    text, _, _ = written(tmp_path)
    assert "## Notes\n\nIt *failed* | twice.\n\n- honestly\n" in text
    assert text.index("total:") < text.index("## Notes") < text.index("## Tasks")
    make_run(run, MINE[5:])
    report(tmp_path, f"--run={run}")
    again, _, _ = written(tmp_path)
    assert "It *failed* | twice." in again
    assert f"total: {TOTAL}" in again
    note.write_text("")
    report(tmp_path, f"--run={run}", f"--note={note}")
    assert "## Notes" not in written(tmp_path)[0]


def test_report_of_another_kind_is_not_replaced(tmp_path, capsys):
    run, other = make_run(tmp_path / "mine", MINE), tmp_path / "reports/mine/report.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"kind": "camera_shift"}')
    report(tmp_path, f"--run={run}", status=1)
    assert "kind 'camera_shift'" in capsys.readouterr().err
    assert other.read_text() == '{"kind": "camera_shift"}'


def test_files_of_an_earlier_report_do_not_stay(tmp_path):
    folder = tmp_path / "reports/mine"
    report(tmp_path, f"--run={make_run(tmp_path / 'mine', MINE, training=TRAINING)}")
    (folder / "own.txt").write_text("kept")
    other = make_run(tmp_path / "other", rollouts_of(0, [0]))
    report(tmp_path, f"--run={other}", "--name=mine")
    assert sorted(file.name for file in folder.iterdir()) == ["own.txt", "report.json", "report.md", "success.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels=[one, two]"], "must be 1, one for each run of --run: mine."),
        (["--labels=['a|b']"], "no '|'"),
        (["--name=a/b"], "--name='a/b' must be the name of a folder"),
        (["--name=.."], "--name='..' must be the name of a folder"),
        (["--note=nowhere.md"], "nowhere.md"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, capsys, arguments, message):
    run = make_run(tmp_path / "mine", MINE)
    report(tmp_path, f"--run={run}", *arguments, status=1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_run_without_rollouts_is_refused(tmp_path, capsys):
    run = make_run(tmp_path / "mine", [])
    report(tmp_path, f"--run={run}", status=1)
    assert "has no finished rollouts" in capsys.readouterr().err
    report(tmp_path, f"--run={make_run(tmp_path / 'twice', [*MINE, MINE[0]])}", status=1)
    assert "('libero_spatial', 0, 1000, 0) more than once" in capsys.readouterr().err
    report(tmp_path, f"--run={tmp_path / 'nowhere'}", status=1)
    assert "nowhere is neither a run folder of eval.run nor a report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"), [([], ""), (["A"], "A"), (["A", "B"], "A and B"), (["A", "B", "C"], "A, B and C")]
)
def test_names_are_listed_in_words(names, words):
    assert enumeration(names) == words


@pytest.mark.parametrize("name", ["ten_tasks_nominal", "ten_tasks_displaced", "ten_tasks_peers", "fast_render"])
def test_reports_written_so_far_are_read_however_they_are_laid_out(tmp_path, name):
    folder = Path(__file__).parents[3] / "eval/results" / name
    content = json.loads((folder / "report.json").read_text())
    # As report.json was laid out before it had a row a line.
    (tmp_path / "report.json").write_text(json.dumps(content, indent=1))
    entries = read_runs(folder)
    assert [(*entry.counts, entry.label) for entry in entries] == [
        (run["successes"], run["rollouts"], run["label"]) for run in content["runs"]
    ]
    assert [entry.run for entry in read_runs(tmp_path)] == [entry.run for entry in entries]
