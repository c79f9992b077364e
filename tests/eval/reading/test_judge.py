"""The first goal that is reached decides, with predicates that only pretend."""

import pickle
from types import SimpleNamespace

import pytest

from eval.reading.judge import FirstGoal

STOVE, BOWL, DRAWER, PLATE = ("turnon", "stove"), ("on", "bowl", "plate"), ("open", "drawer"), ("on", "plate", "stove")
JUDGE = FirstGoal(0, 1, ((0, (STOVE,)), (1, (BOWL, PLATE)), (2, (DRAWER,)), (3, (PLATE,))))


def played(*steps: set) -> list:
    """Judge an episode: what holds after the reset and after each step."""
    judgment, seen = None, []
    for true in steps:
        domain = SimpleNamespace(_eval_predicate=lambda predicate, true=true: tuple(predicate) in true)
        judgment = JUDGE.assess(SimpleNamespace(_env=SimpleNamespace(env=domain)), judgment)
        seen.append((judgment.over, judgment.success, judgment.record["outcome"], judgment.record["goal"]))
    assert judgment is not None
    return [*seen, judgment.record]


@pytest.mark.parametrize(
    ("true", "outcome", "goal"),
    [
        ({BOWL, PLATE}, "told", 1),
        ({STOVE}, "collected_for", 0),
        ({DRAWER}, "another", 2),
        ({PLATE}, "another", 3),
        ({STOVE, BOWL, PLATE}, "told", 1),
        ({STOVE, DRAWER}, "collected_for", 0),
        ({PLATE, DRAWER}, "another", 2),
    ],
)
def test_the_first_goal_ends_the_rollout(true, outcome, goal):
    *seen, record = played(set(), {BOWL}, true)
    assert seen == [(False, False, "neither", None)] * 2 + [(True, outcome == "told", outcome, goal)]
    assert record == {
        "state_task": 0,
        "told_task": 1,
        "outcome": outcome,
        "goal": goal,
        "judged": [0, 1, 2, 3],
        "true_at_start": [],
    }


def test_a_third_goal_that_is_true_at_the_start_does_not_judge():
    *seen, record = played({DRAWER}, {DRAWER}, set(), {DRAWER}, {DRAWER, PLATE})
    assert seen == [(False, False, "neither", None)] * 4 + [(True, False, "another", 3)]
    assert (record["judged"], record["true_at_start"]) == ([0, 1, 3], [2])


@pytest.mark.parametrize(("true", "ids"), [({STOVE}, [0]), ({BOWL, PLATE}, [1, 3])])
def test_a_rollout_that_starts_at_one_of_the_two_goals_is_left_out(true, ids):
    *seen, record = played(true, {STOVE, BOWL, PLATE})
    assert seen == [(True, False, "left_out", None)] * 2
    assert record["true_at_start"] == ids


def test_it_travels_to_the_workers():
    assert pickle.loads(pickle.dumps(JUDGE)) == JUDGE
    assert hash(JUDGE)
