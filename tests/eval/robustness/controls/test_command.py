"""eval.robustness: policies beside controls on common tasks, the sentences, and runs that don't go together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from eval.report.results_table import results_block
from eval.robustness.controls import command
from eval.robustness.libero_plus.names import NAME
from eval.robustness.libero_pro.tasks import NAME as PRO
from eval.rollout.run_folder import Rollout
from lerobot_atlasvla.libero.tasks import SCENE_OBSERVATION as SCENE
from lerobot_atlasvla.libero.tasks import WRIST_OBSERVATION as WRIST
from tests.eval.robustness.wheels import BOWL
from tests.eval.run_folders import make_run

BOTH = {SCENE: "image", WRIST: "wrist_image"}
CAMERA, LANGUAGE = range(40), range(40, 60)
SETTINGS = {"task_ids": None, "episodes": 1, "prompt": "clean", "robot_start": "original", "categories": ["camera"]}


def name_of(number: int) -> str:
    if number in CAMERA:
        return f"{BOWL}_view_{number + 1}_0_100_0_0_initstate_0"
    return f"{BOWL}_language_{number}_view_0_0_100_0_0_initstate_0"


def plus_run(folder: str, solved: Sequence[int], asked: Sequence[int] = range(60), **settings) -> Path:
    """A finished run on camera and language tasks that solves some of them; its weights are named after the folder."""
    weights = settings.pop("weights", folder)
    rollouts = [
        Rollout(
            "libero_spatial_plus", i, "do it", 1000, 0, i in solved, 90, 2.0, task_name=name_of(i), undisturbed=True
        )
        for i in asked
    ]
    settings = SETTINGS | {"benchmark": NAME, "cameras": BOTH} | settings
    path = make_run(Path(folder), rollouts, settings, policy={"weights_sha256": weights, "checkpoint": weights})
    report = {"kind": "libero_plus", "complete": True, "total": {"rollouts": len(rollouts)}}
    Path(path, "report.json").write_text(json.dumps(report))
    return path


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command; returns its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "plot_success", lambda *_: None)  # takes longer than all the rest

    def run(*flags: str):
        return command.main([*flags, "--reports=results"]), capsys.readouterr()

    return run


@pytest.fixture
def runs(call):
    """A policy that passes everything, a blind one that passes half of either, a wrist-only one that passes camera."""
    plus_run("mine", range(60))
    plus_run("blind", range(20, 50), cameras={}, image_size=48)
    plus_run("wrist", CAMERA, cameras={WRIST: "wrist_image"})


def content(name: str = "libero_plus") -> Mapping:
    return json.loads(Path("results", name, "report.json").read_text())


USUAL = ("--runs=[mine]", "--controls=[blind, wrist]")


def test_every_category_says_whether_the_policy_beats_its_controls(call, runs):
    status, printed = call(*USUAL, "--labels=[AtlasVLA, blind, wrist-only]")
    assert status == 0, printed.err
    assert printed.out.splitlines()[-1].startswith("total: yes, AtlasVLA beats blind (+50.0 points [")
    found = content()
    camera, language, total = found["sentences"]
    assert camera.startswith("camera: no, AtlasVLA beats blind (+50.0 points [")
    assert camera.endswith("and is not shown to beat wrist-only (+0.0 points [-8.8, 8.8]).")
    assert language.startswith("language: yes, AtlasVLA beats blind (+50.0 points [")
    assert total.startswith("total: yes, ")
    group = found["categories"]["camera"]
    assert {label: figures["successes"] for label, figures in group["success"].items()} == {
        "AtlasVLA": 40,
        "blind": 20,
        "wrist-only": 40,
    }
    blind, wrist = group["pairs"]
    assert (blind["both"], blind["only_a"], blind["only_b"], blind["neither"]) == (20, 20, 0, 0)
    assert blind["low"] > 0
    assert (blind["shown"], wrist["shown"]) == (True, False)
    page = Path("results/libero_plus/report.md").read_text()
    for words in ("| AtlasVLA | policy | atlasvla | scene camera and wrist camera |", "| nothing | - |", "Newcombe"):
        assert words in page


def test_the_plot(runs, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command.main([*USUAL, "--reports=results"]) == 0
    assert Path("results/libero_plus/categories.png").stat().st_size > 1000


def test_only_tasks_that_all_have_count(call, runs):
    plus_run("part", range(60), asked=range(30, 60))
    assert call("--runs=[part]", "--controls=[blind, wrist]")[0] == 0
    found = content()
    assert found["total"]["rollouts"] == 30
    assert found["left_out"] == {"part": 0, "blind": 30, "wrist": 30}
    assert found["categories"]["camera"]["success"]["blind"]["rollouts"] == 10
    assert "- left out of blind: 30" in Path("results/libero_plus/report.md").read_text()


def test_a_policy_that_is_behind(call, runs):
    assert call("--runs=[blind]", "--controls=[mine]")[0] == 0
    assert content()["sentences"][0].startswith("camera: no, blind is behind mine (-50.0 points [")


def test_several_policies(call, runs):
    plus_run("act", range(10))
    status, printed = call("--runs=[mine, act]", "--controls=[blind, wrist]")
    assert status == 0
    assert printed.out.splitlines()[-1].startswith("total: yes, mine beats")
    assert any(sentence.startswith("camera: no, act is ") for sentence in content()["sentences"])


def test_a_run_that_is_not_finished_is_told(call, runs):
    Path("wrist/report.json").unlink()
    assert call(*USUAL)[0] == 0
    assert (content()["complete"], content()["unfinished"]) == (False, ["wrist"])
    assert "> **incomplete: wrist. These figures" in Path("results/libero_plus/report.md").read_text()


@pytest.mark.parametrize(
    ("solved", "words"),
    [(range(45), "mine reads the instruction (+75.0"), (range(60), "nothing shows that mine reads it (+0.0")],
)
def test_another_tasks_instruction(call, runs, solved, words):
    plus_run("swapped", solved, LANGUAGE, prompt="other_task", categories=["language"], weights="mine")
    assert call(*USUAL, "--other_task=[swapped]")[0] == 0
    (pair,) = content()["other_task"]
    assert (pair["category"], pair["policy"], pair["both"] + pair["only_a"]) == ("language", "mine", 20)
    assert words in Path("results/libero_plus/report.md").read_text()


def test_it_is_read_beside_the_run_with_the_same_settings(call, runs):
    """The same weights may have been run with other numbers of executed actions."""
    plus_run("three", range(60), weights="mine", n_action_steps=3)
    plus_run(
        "swapped", range(45), LANGUAGE, prompt="other_task", categories=["language"], weights="mine", n_action_steps=3
    )
    assert call("--runs=[mine, three]", "--controls=[blind]", "--other_task=[swapped]")[0] == 0
    assert [pair["policy"] for pair in content()["other_task"]] == ["three"]
    status, printed = call(*USUAL, "--other_task=[swapped]")
    assert status == 1
    assert "--other_task=swapped can't be read beside mine: its n_action_steps is 3, not 10" in printed.err


def test_libero_pro(call):
    for folder, solved in (("mine", 3), ("blind", 1)):
        rollouts = [
            Rollout(f"libero_spatial_{kind}", i, "do it", 1000, state, state < solved, 90, 2.0, task_name=f"{kind}/{i}")
            for kind in ("swap", "task", "lan")
            for i in range(10)
            for state in range(3)
        ]
        make_run(
            Path(folder), rollouts, SETTINGS | {"benchmark": PRO}, policy={"weights_sha256": "0", "checkpoint": "c"}
        )
    assert call("--runs=[mine]", "--controls=[blind]")[0] == 0
    assert list(content("libero_pro")["categories"]) == ["swap", "task", "lan"]
    assert content("libero_pro")["categories"]["task"]["pairs"][0]["only_a"] == 20


def test_the_table_of_results_passes_over_it(call, runs):
    assert call(*USUAL)[0] == 0
    assert "libero_plus" not in results_block(Path("results"), Path("README.md"))


def test_the_same_command_again_keeps_the_remarks(call, runs):
    Path("note.md").write_text("Half of it at night.\n")
    assert call(*USUAL, "--note=note.md")[0] == 0
    before = Path("results/libero_plus/report.json").read_bytes()
    assert call(*USUAL)[0] == 0
    assert Path("results/libero_plus/report.json").read_bytes() == before
    assert "Half of it at night." in Path("results/libero_plus/report.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--runs=[mine]", "--controls=[]"), "--controls=[] must name at least one run folder"),
        (("--runs=[nowhere]", "--controls=[blind]"), "nowhere is not a run folder"),
        (("--runs=[plain]", "--controls=[blind]"), "--runs=plain holds a run on LIBERO; allowed: LIBERO-Plus (rlinf"),
        (("--runs=[mine]", "--controls=[plain]"), "--controls=plain holds a run on LIBERO, not on LIBERO-Plus"),
        (("--runs=[mine]", "--controls=[bddl]"), "--controls=bddl can't be read beside mine: its prompt is bddl"),
        (
            ("--runs=[mine]", "--controls=[swapped]"),
            "--controls=swapped was made with --prompt=other_task; name it in --ot",
        ),
        ((*USUAL, "--other_task=[wrist]"), "--other_task=wrist was made with --prompt=clean; name it in --runs or"),
        ((*USUAL, "--other_task=[swapped]"), "--other_task=swapped is of swapped, whose weights none of --runs has"),
        ((*USUAL, "--labels=[a, b]"), "--labels=['a', 'b'] must be 3, one for each of --runs and --controls"),
        ((*USUAL, "--labels=[a, a, b]"), "must differ from each other"),
        ((*USUAL, "--name=a/b"), "--name='a/b' must be the name of a folder inside --reports=results"),
        (("--runs=[mine, low]", "--controls=[high, blind]"), "No rollout is in all of --runs and --controls"),
    ],
)
def test_what_does_not_go_together_is_refused(call, runs, flags, message):
    plus_run("bddl", [], prompt="bddl")
    plus_run("swapped", [], prompt="other_task")
    plus_run("low", [], asked=range(10))
    plus_run("high", [], asked=range(50, 60))
    make_run(Path("plain"), [Rollout("libero_spatial", 0, "do it", 1000, 0, True, 90, 2.0)])
    status, printed = call(*flags)
    assert status == 1
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not Path("results").exists()
