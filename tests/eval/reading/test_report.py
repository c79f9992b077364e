"""The report of made-up rollouts whose counts are known."""

import json
from pathlib import Path

import pytest

from eval.common.errors import EvalError
from eval.common.statistics import wilson_interval
from eval.reading.pairs import NAME
from eval.reading.report import write_report
from eval.rollout.run_folder import Rollout, read_run
from tests.eval.reading.conftest import INSTRUCTIONS
from tests.eval.run_folders import make_run

SETTINGS = {"suites": ["libero_goal"], "task_ids": None, "episodes": 2, "displace_cm": 0.0}
READING = SETTINGS | {"benchmark": NAME, "told_task_ids": None, "instructions": INSTRUCTIONS}
POLICY = {"weights_sha256": "abc", "settings_sha256": "123"}
# (the state's task, the told one): outcomes of the two states, and the goals reached.
OUTCOMES = {
    (0, 1): [("told", 1), ("told", 1)],
    (0, 2): [("collected_for", 0), ("another", 1)],
    (1, 0): [("told", 0), ("neither", None)],
    (1, 2): [("neither", None), ("collected_for", 1)],
    (2, 0): [("another", 1), ("another", 1)],
    (2, 1): [("left_out", None), ("told", 1)],
}


def rollouts() -> list[Rollout]:
    made = []
    for (state, told), outcomes in OUTCOMES.items():
        for init_state, (outcome, goal) in enumerate(outcomes):
            start = [1] if outcome == "left_out" else []
            judgment = {"state_task": state, "told_task": told, "outcome": outcome, "goal": goal}
            judgment |= {"judged": [0, 2] if start else [0, 1, 2], "true_at_start": start}
            common = {"suite": "libero_goal_reading", "task_id": 3 * state + told, "instruction": INSTRUCTIONS[told]}
            steps = {"success": outcome == "told", "steps": 9, "wall_s": 1.0, "judgment": judgment}
            made.append(Rollout(**common, seed=1000, init_state=init_state, **steps))
    made[2].judgment["judged"] = [0, 1]
    return made


@pytest.fixture
def run(tmp_path):
    return read_run(make_run(tmp_path / "run", rollouts(), READING, policy=POLICY))


@pytest.fixture
def nominal(tmp_path) -> Path:
    common = {"suite": "libero_goal", "instruction": "", "seed": 1000, "steps": 9, "wall_s": 1.0}
    made = [Rollout(task_id=task, init_state=i, success=i < task, **common) for task in (0, 2) for i in range(3)]
    return make_run(tmp_path / "nominal", made, SETTINGS | {"episodes": 3, "threads": 4}, policy=POLICY)


def content(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_known_counts(run, tmp_path):
    page, total = write_report(run, tmp_path / "report", None, "A remark.")
    assert total.startswith("4/11 = 36.4 %")
    found = content(page.parent)
    assert (found["kind"], found["name"], found["complete"], found["rollouts_asked"]) == ("reading", "report", True, 12)
    assert {outcome: of["successes"] for outcome, of in found["total"].items()} == {
        "told": 4,
        "collected_for": 2,
        "another": 3,
        "neither": 2,
    }
    assert found["total"]["another"]["interval"] == list(wilson_interval(3, 11))
    assert [(of["told_task"], of["told"]["total"][:4]) for of in found["by_told_task"]] == [
        (0, "1/4 "),
        (1, "3/3 "),
        (2, "0/4 "),
    ]
    assert [(of["state_task"], of["neither"]["total"][:4]) for of in found["by_state_task"]] == [
        (0, "0/4 "),
        (1, "2/4 "),
        (2, "0/3 "),
    ]
    assert found["pairs"][0] | {"rollouts": 2, "told": 2} == found["pairs"][0]
    assert found["third_goals"] == [[0, 2, 1, 1], [2, 0, 1, 2]]
    assert found["left_out"] == [[2, 1, 1, 1]]
    assert found["not_judged"] == [[0, 2, 1]]
    assert found["nominal"] is None
    assert len(found["rollout_rows"]) == 12
    text = page.read_text()
    assert "told | the goal of the task that the policy was told | 4/11 = 36.4 %" in text
    assert "| 2 open the drawer | 0 turn on the stove | 1 put the bowl on the plate | 2 |" in text
    assert "| 0 | - | 2/2 | 0/2 |" in text
    assert "A remark." in text
    assert (page.parent / "told.png").stat().st_size > 1000


def test_the_diagonal_is_the_nominal_run(run, nominal, tmp_path):
    page, total = write_report(run, tmp_path / "report", read_run(nominal), "")
    assert total.startswith("4/11")  # without it
    assert [(of["task"], of["successes"], of["rollouts"]) for of in content(page.parent)["nominal"]["tasks"]] == [
        (0, 0, 3),
        (2, 2, 3),
    ]
    assert "| 0 | (0/3) | 2/2 | 0/2 |" in page.read_text()


def test_a_part_is_marked_and_the_order_does_not_matter(tmp_path):
    part = rollouts()[:-3]
    first = read_run(make_run(tmp_path / "a" / "run", part, READING, policy=POLICY))
    second = read_run(make_run(tmp_path / "b" / "run", part[::-1], READING, policy=POLICY))
    pages = [write_report(run, run.path, None, "")[0] for run in (first, second)]
    assert "incomplete: 9 of 12 rollouts" in pages[0].read_text()
    one, other = (content(page.parent) for page in pages)
    assert not one["complete"]
    assert {name: of for name, of in one.items() if name != "command"} == {
        name: of for name, of in other.items() if name != "command"
    }


def test_only_rollouts_that_are_left_out(tmp_path):
    made = [rollout for rollout in rollouts() if rollout.judgment["outcome"] == "left_out"]
    page, total = write_report(read_run(make_run(tmp_path / "run", made, READING)), tmp_path / "report", None, "")
    assert total == "nothing, because all rollouts are left out"
    assert content(page.parent)["total"]["told"] is None
    assert "| told | the goal of the task that the policy was told | - |" in page.read_text()


@pytest.mark.parametrize("lacking", ["state_task", "outcome", "judged"])
def test_a_judgment_that_lacks_something_is_named(tmp_path, lacking):
    made = rollouts()
    del made[3].judgment[lacking]
    with pytest.raises(EvalError, match=f"its judgment does not say '{lacking}'"):
        write_report(read_run(make_run(tmp_path / "run", made, READING)), tmp_path / "report", None, "")


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({}, {"weights_sha256": "def"}, "was made with the weights of outputs/train, not with those of --checkpoint"),
        ({}, {"settings_sha256": "456"}, "but another config.json or other pipelines"),
        ({"displace_cm": 6.0}, {}, "its displace_cm is 6.0, not 0.0"),
        ({"look": "plain"}, {}, "its render_quality is plain, not default"),
        ({"n_action_steps": 1}, {}, "its n_action_steps is 1, not 10"),
    ],
)
def test_a_diagonal_of_something_else(run, tmp_path, changes, policy, message):
    made = [Rollout("libero_goal", 0, "", 1000, 0, True, 9, 1.0)]
    other = make_run(tmp_path / "other", made, SETTINGS | changes, policy=POLICY | policy)
    with pytest.raises(EvalError, match=message):
        write_report(run, tmp_path / "report", read_run(other), "")
    assert not (tmp_path / "report").exists()


def test_runs_of_something_else(nominal, tmp_path):
    with pytest.raises(EvalError, match="holds a run on LIBERO, not on other tasks' instructions"):
        write_report(read_run(nominal), tmp_path / "report", None, "")
    empty = read_run(make_run(tmp_path / "empty", [], READING))
    with pytest.raises(EvalError, match="no finished rollouts"):
        write_report(empty, tmp_path / "report", None, "")
