"""eval.reading with rollouts that are only pretended: what is asked, kept, continued and refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.reading import command
from eval.rollout import run
from eval.rollout.run import main as eval_run
from eval.rollout.run_folder import read_run
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker import Task
from tests.eval.reading.conftest import INSTRUCTIONS
from tests.eval.rollout.simulated_run import outcome_of

FLAGS = ["--checkpoint=checkpoint", "--output_dir=out", "--workers=2", "--device=cpu", "--states=2"]


@pytest.fixture
def jobs(simulated, checkpoint, tasks, monkeypatch) -> list:
    """Told in state 0, the state's own task in state 1; returns the rollouts simulated so far."""
    done = []

    def run_job(job):
        done.append(job)
        if job.task.judge is None:
            return outcome_of(job, True)
        pair = {"state_task": job.task.judge.state_task, "told_task": job.task.judge.told_task}
        goal, outcome = (pair["state_task"], "collected_for") if job.init_state else (pair["told_task"], "told")
        judgment = pair | {"outcome": outcome, "goal": goal, "judged": [0, 1, 2], "true_at_start": []}
        finished = outcome_of(job, outcome == "told")
        return replace(finished, rollout=replace(finished.rollout, task_name=job.task.name, judgment=judgment))

    monkeypatch.setattr(worker_pool, "run_job", run_job)
    monkeypatch.setattr(command, "read_tasks", lambda suite: tasks)
    monkeypatch.setattr(
        run, "libero_tasks", lambda suites, ids: [Task(suites[0], i, text) for i, text in enumerate(INSTRUCTIONS)]
    )
    return done


@pytest.fixture
def reading(jobs, capsys):
    """The command with its usual flags; returns its exit status and what it printed."""

    def call(*flags: str):
        named = {flag.partition("=")[0] for flag in flags}
        status = command.main([*(flag for flag in FLAGS if flag.partition("=")[0] not in named), *flags])
        return status, capsys.readouterr()

    return call


def content(folder: str = "out") -> dict:
    return json.loads(Path(folder, "report.json").read_text())


def test_all_pairs_are_rolled_out_and_reported(reading, jobs):
    status, printed = reading()
    assert status == 0, printed.err
    assert printed.out.splitlines()[-2:] == ["report: out/report.md", "told: 6/12 = 50.0 % [25.4, 74.6]"]
    assert sorted(job.key for job in jobs) == [
        ("libero_goal_reading", number, 1000, state) for number in (1, 2, 3, 5, 6, 7) for state in (0, 1)
    ]
    found = content()
    assert found["complete"]
    assert found["total"]["collected_for"]["successes"] == 6
    settings = read_run("out").settings
    assert (settings["benchmark"], settings["suites"]) == ("other tasks' instructions", ["libero_goal"])
    assert (settings["told_task_ids"], settings["instructions"]) == (None, INSTRUCTIONS)


def test_a_run_that_was_stopped_is_continued_to_the_same_report(reading, jobs):
    assert reading("--output_dir=whole/out")[0] == 0
    assert reading()[0] == 0
    lines = Path("out/rollouts.jsonl").read_text().splitlines(keepends=True)
    Path("out/rollouts.jsonl").write_text("".join(lines[:5]) + lines[5][:20])  # as if it had been killed
    Path("out/report.json").unlink()
    jobs.clear()
    assert reading()[0] == 0
    assert len(jobs) == 7
    after, whole = content(), content("whole/out")
    # They only differ in the folder.
    assert after.pop("command") != whole.pop("command")
    assert after == whole
    jobs.clear()
    assert reading()[0] == 0
    assert jobs == []


def test_more_states_and_tasks_continue_a_smaller_run(reading, jobs):
    assert reading("--task_ids=[0]", "--states=1")[0] == 0
    assert (len(jobs), content()["rollouts_asked"]) == (2, 2)
    assert reading()[0] == 0
    assert (len(jobs), content()["rollouts_asked"], content()["complete"]) == (12, 12, True)
    status, printed = reading("--told_task_ids=[0]")
    assert status == 1
    assert "--told_task_ids: the run in --output_dir=out was made with None, this command asks for [0]" in printed.err
    status, printed = reading("--seed=7")
    assert status == 1
    assert "--seed: the run in --output_dir=out was made with 1000, this command asks for 7" in printed.err


def test_a_report_by_name_with_the_diagonal(reading, jobs):
    run_flags = ["--output_dir=nominal", "--suites=[libero_goal]", "--episodes=1", "--checkpoint=checkpoint"]
    assert eval_run([*run_flags, "--device=cpu", "--workers=1"]) == 0
    Path("remarks.md").write_text("By hand.")
    status, printed = reading("--nominal=nominal", "--reports=reports", "--name=reading", "--note=remarks.md")
    assert status == 0, printed.err
    assert "report: reports/reading/report.md" in printed.out
    assert content("reports/reading")["nominal"]["total"].startswith("3/3")
    assert not Path("out/report.md").exists()
    jobs.clear()
    assert reading("--report_only=true", "--reports=reports", "--name=reading")[0] == 0
    assert (jobs, content("reports/reading")["note"], content("reports/reading")["nominal"]) == ([], "By hand.", None)


def test_a_diagonal_that_does_not_fit_is_refused_at_once(reading, jobs):
    run_flags = ["--output_dir=nominal", "--suites=[libero_goal]", "--episodes=1", "--checkpoint=checkpoint"]
    assert eval_run([*run_flags, "--device=cpu", "--workers=1", "--displace_cm=6"]) == 0
    jobs.clear()
    for flags, message in (
        (["--nominal=nominal"], "--nominal=nominal can't be the diagonal: its displace_cm is 6.0, not 0.0"),
        (["--nominal=none"], "none is not a run folder"),
        (["--nominal=nominal", "--suite=libero_10"], "--nominal=nominal has no finished rollout of libero_10"),
    ):
        status, printed = reading(*flags)
        assert (status, message in printed.err) == (1, True), printed.err
    assert (jobs, Path("out").exists()) == ([], False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite=libero_100"], "--suite=libero_100 is not known; allowed: libero_spatial"),
        (["--told_task_ids=[0, 10]"], "--told_task_ids names 10; libero_goal has the tasks 0 to 9"),
        (["--task_ids=[-1]"], "--task_ids names -1; libero_goal has the tasks 0 to 9"),
        (["--task_ids=[]"], "--task_ids=[] must name at least one, and none twice"),
        (["--told_task_ids=[1, 1]"], "--told_task_ids=[1, 1] must name at least one, and none twice"),
        (["--task_ids=[1]", "--told_task_ids=[1]"], "have no two different tasks"),
        (["--states=0"], "--states=0 must be at least 1"),
        (["--states=51"], "--states=51 must be at most 50"),
        (["--seed=-1"], "--seed=-1 must lie in 0 .. 4294967293"),
        (["--displace_cm=-1"], "--displace_cm=-1.0 is not a displacement"),
        (["--name=a/b"], "--name='a/b' must be the name of a folder inside --reports"),
        (["--report_only=true"], "out is not a run folder"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(reading, jobs, flags, message):
    status, printed = reading(*flags)
    assert status == 1
    assert message in printed.err
    assert (jobs, Path("out").exists()) == ([], False)


def test_a_run_of_something_else_is_not_continued(reading, jobs):
    assert eval_run(["--checkpoint=checkpoint", "--output_dir=out", "--device=cpu", "--episodes=1"]) == 0
    status, printed = reading()
    assert status == 1
    assert "--output_dir=out holds a run on LIBERO, and this one is on other tasks' instructions" in printed.err
