"""The tables of all reports: their rows and links, and that the repository's own are up to date."""

import json
import shutil
from pathlib import Path

import pytest

from eval.report import command as report
from eval.report.results_table import BEGIN, END, NONE_YET, main
from tests.eval.run_folders import TRAINING, make_run, rollouts_of
from tests.helpers import ROOT

SHIFT = {
    "kind": "camera_shift",
    "complete": True,
    "total": "20/30 = 66.7 % [48.8, 80.8]",
    "points": [
        {"label": "AtlasVLA", "direction": direction, "shift": shift, "successes": successes, "rollouts": 10}
        for direction, shift, successes in [
            ("unshifted", 0, 9),
            ("right_cm", -10, 3),
            ("right_cm", -5, 5),
            ("right_cm", 10, 4),
            ("pan_deg", 5, 8),
            ("pan_deg", 10, 7),
        ]
    ],
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "eval/results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "eval/results/experts.md", tmp_path / "eval/results")
    for page in ("eval/README.md", "docs/tasks.md"):
        (tmp_path / page).write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    return tmp_path


def block(page: Path) -> str:
    text = page.read_text()
    assert text.startswith("before\n\n")
    assert text.endswith("\n\nafter\n")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def test_repository_is_up_to_date():
    assert main(["--check"], ROOT) == 0


def test_no_reports(root):
    assert main(["--check"], root) == 1
    assert "old" in (root / "eval/README.md").read_text()
    assert main([], root) == 0
    assert block(root / "eval/README.md") == NONE_YET
    assert main(["--check"], root) == 0


def test_rows_of_rollouts_and_camera_shifts(root, tmp_path):
    rollouts = [*rollouts_of(0, [50, 0, 60, 70]), *rollouts_of(3, [0, 0, 0])]
    run = make_run(tmp_path / "mine", rollouts, training=TRAINING, simulator={"assets_note": "bowl replaced"})
    assert report.main([f"--run={run}", f"--reports={root}/eval/results", "--labels=[AtlasVLA]"]) == 0
    (root / "eval/results/shift").mkdir()
    (root / "eval/results/shift/report.json").write_text(json.dumps(SHIFT))
    assert main([], root) == 0
    row = (
        "AtlasVLA (atlasvla) | 6,000 steps, 40 episodes | libero_spatial 0, 3 | 7, incomplete: 7 of 8 | "
        "3/7 = 42.9 % [15.8, 75.0] | default, official, with replacements |"
    )
    assert f"| [mine](results/mine/report.md) | {row}" in block(root / "eval/README.md")
    assert (
        "| [shift](results/shift/report.md) | AtlasVLA | 9/10 = 90.0 % [59.6, 98.2] | "
        "right_cm -10: 3/10 = 30.0 % [10.8, 60.3]<br>right_cm +10: 4/10 = 40.0 % [16.8, 68.7]<br>"
        "pan_deg +10: 7/10 = 70.0 % [39.7, 89.2] |"
    ) in block(root / "eval/README.md")
    assert main(["--check"], root) == 0


def test_displaced_objects_are_said(root, tmp_path):
    run = make_run(tmp_path / "mine", rollouts_of(0, [50] * 4), settings={"displace_cm": 8.0, "task_ids": [0]})
    assert report.main([f"--run={run}", f"--reports={root}/eval/results"]) == 0
    assert main([], root) == 0
    assert "| libero_spatial 0, displaced by up to 8 cm | 4 |" in block(root / "eval/README.md")


def test_incomplete_grid_is_marked(root):
    (root / "eval/results/shift").mkdir()
    (root / "eval/results/shift/report.json").write_text(json.dumps(SHIFT | {"complete": False}))
    assert main([], root) == 0
    assert "| AtlasVLA, incomplete |" in block(root / "eval/README.md")


@pytest.mark.parametrize(
    ("page", "content", "message"),
    [
        ("docs/tasks.md", "no marks", "must have"),
        ("docs/tasks.md", f"{END}\n{BEGIN}", "must have"),
        ("eval/results/x/report.json", '{"kind": "rollouts", "schema_version": 1}', "lacks something"),
        ("eval/results/x/report.json", '{"kind": "rollouts", "runs": [7]}', "lacks something"),
        ("eval/results/x/report.json", "{", "is not what eval.report writes"),
        ("eval/results/x/report.json", "{}", "is not a report"),
        ("eval/results/experts.md", "## libero_spatial", "has no table with the column 'success' for libero_spatial"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(root, capsys, page, content, message):
    (root / page).parent.mkdir(exist_ok=True)
    (root / page).write_text(content)
    assert main([], root) == 1
    error = capsys.readouterr().err
    assert message in error
    assert page in error
    assert "old" in (root / "eval/README.md").read_text()


def test_a_superseded_report_is_linked_and_gives_no_figures(root, monkeypatch):
    monkeypatch.chdir(root)
    folder = root / "eval/results/old"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(SHIFT | {"schema_version": 1, "superseded": "What it can't show."}))
    main([])
    text = block(root / "eval/README.md")
    assert "[old](results/old/report.md)" in text
    assert "AtlasVLA" not in text


def test_every_task_has_its_expert_and_its_policies(root, tmp_path):
    displaced = {"settings": {"displace_cm": 6.0, "task_ids": [0, 3]}, "training": TRAINING}
    seeing = make_run(tmp_path / "a", [*rollouts_of(0, [50, 0]), *rollouts_of(3, [0, 0])], **displaced)
    blind = make_run(tmp_path / "b", [*rollouts_of(0, [0, 0]), *rollouts_of(3, [60, 0])], **displaced)
    flags = [f"--reports={root}/eval/results", "--labels=[mine, blind twin]", "--name=replan_displaced"]
    assert report.main([f"--run=[{seeing}, {blind}]", *flags]) == 0
    assert main([], root) == 0
    lines = block(root / "docs/tasks.md").splitlines()
    assert lines[2] == "| task | expert | policy, objects displaced | blind, objects displaced |"
    bowl = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    assert lines[4] == f"| 0 {bowl} | 49/50 [90, 100] | 1/2 [9, 91] | 0/2 [0, 66] |"
    assert lines[5].endswith(" | 50/50 [93, 100] | - | - |")
    assert "| 3 open the top drawer and put the bowl inside | 50/50 [93, 100] |" in lines
    assert "| 1 put both the cream cheese box and the butter in the basket | 48/50 [87, 99] |" in lines
    assert len([line for line in lines if line[2:3].isdigit()]) == 40


def test_a_policy_of_three_suites_has_a_column_in_each_of_them(root, tmp_path):
    of_goal = {"suite": "libero_goal", "instruction": "open the middle drawer of the cabinet"}
    settings = {"settings": {"suites": ["libero_spatial", "libero_goal"], "task_ids": [0]}, "training": TRAINING}
    runs = [
        make_run(tmp_path / name, [*rollouts_of(0, spatial), *rollouts_of(0, goal, **of_goal)], **settings)
        for name, spatial, goal in (("a", [50, 0], [0, 0]), ("b", [0, 0], [60, 50]))
    ]
    flags = [f"--reports={root}/eval/results", "--labels=[mine, blind twin]", "--name=thirty_tasks"]
    assert report.main([f"--run=[{runs[0]}, {runs[1]}]", *flags]) == 0
    assert main([], root) == 0
    lines = block(root / "docs/tasks.md").splitlines()
    alone = "| task | expert |"
    with_both = f"{alone} policy, three suites | blind, three suites |"
    assert [line for line in lines if line.startswith("| task")] == [with_both, alone, with_both, alone]
    firsts = [line for line in lines if line.startswith("| 0 ")]
    assert firsts[0].endswith("| 49/50 [90, 100] | 1/2 [9, 91] | 0/2 [0, 66] |")
    assert firsts[2].endswith("| 50/50 [93, 100] | 0/2 [0, 66] | 2/2 [34, 100] |")
