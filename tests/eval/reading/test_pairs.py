"""Which pairs there are, what judges them, and which ones show nothing; with LIBERO's own descriptions, too."""

import pytest

from eval.common.errors import EvalError
from eval.reading.goals import described_task, judges, read_tasks
from eval.reading.pairs import InstructionPairs, pairs
from eval.rollout.workers.scene import Scene
from tests.eval.reading.conftest import GOALS, INSTRUCTIONS, problem


def test_all_ordered_pairs():
    assert len(pairs(10, None, None)) == 90
    assert pairs(3, [2, 0], None) == [(0, 1), (0, 2), (2, 0), (2, 1)]
    assert pairs(3, None, [1]) == [(0, 1), (2, 1)]
    assert pairs(3, [1], [1]) == []


def test_a_pair_is_a_task_in_the_scene_of_another(tasks):
    swapped = InstructionPairs("libero_goal", tasks, [1], None)
    first, second = swapped.tasks()
    assert (first.suite, first.task_id, first.instruction) == ("libero_goal_reading", 3, INSTRUCTIONS[0])
    assert (second.task_id, second.name) == (5, "libero_goal 1 told 2")
    assert first.built_for == second.built_for == Scene("libero_goal", 1)
    assert (first.judge.state_task, first.judge.told_task) == (1, 0)
    assert first.judge.goals == tuple((i, (tuple(goal),)) for i, goal in enumerate(GOALS))
    assert swapped.settings == {"task_ids": [1], "told_task_ids": None, "instructions": INSTRUCTIONS}


def test_no_pair(tasks):
    with pytest.raises(EvalError, match=r"--task_ids=\[1\] and --told_task_ids=\[1\] have no two different tasks"):
        InstructionPairs("libero_goal", tasks, [1], [1]).tasks()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objects": {"bowl": ["bowl_1"]}}, "other objects"),
        ({"objects": {"bowl": ["bowl_1"], "tray": ["plate_1"]}}, "other objects"),
        ({"problem_name": "floor"}, "other objects"),
        ({"goal_state": [GOALS[0]]}, "one's goal is the other's"),
        ({"goal_state": GOALS[:2]}, "one's goal is the other's"),
    ],
)
def test_a_pair_that_shows_nothing_is_refused(tasks, changes, reason):
    tasks[2] = described_task(2, "another", problem(GOALS[2]) | changes)
    for asked in ([0], [2]), ([2], [0]):
        with pytest.raises(EvalError, match=f"{reason}.*--suite=libero_goal.*--task_ids and --told_task_ids"):
            InstructionPairs("libero_10", tasks, *asked).tasks()
    assert len(InstructionPairs("libero_10", tasks, [0, 1], [0, 1]).tasks()) == 2


def test_a_goal_about_a_place_that_is_elsewhere_in_the_scene(tasks):
    moved = {"cabinet_1_top_region": {"target": "cabinet_1", "ranges": [[0, 0, 1, 1]]}}
    tasks[2] = described_task(2, "another", problem(GOALS[2], regions=moved))
    with pytest.raises(
        EvalError, match="Task 2 can't be told in the scene of task 0: their scenes have other objects or places"
    ):
        InstructionPairs("libero_10", tasks, [0], [2]).tasks()
    assert len(InstructionPairs("libero_10", tasks, [2], [0]).tasks()) == 1


@pytest.mark.parametrize(
    ("third", "judging"),
    [
        (problem(["on", "mug_1", "plate_1"], objects={"mug": ["mug_1"], "plate": ["plate_1"]}), [0, 1]),
        (problem(["on", "bowl_1", "nowhere"]), [0, 1]),
        (problem(GOALS[1]), [0, 1]),
        (problem(GOALS[1], GOALS[2]), [0, 1, 2]),
    ],
)
def test_third_goals_that_can_judge(tasks, third, judging):
    tasks[2] = described_task(2, "third", third)
    assert [task for task, _ in judges(tasks, tasks[0], tasks[1])] == judging


def test_the_goal_suite_has_one_scene_and_the_others_do_not():
    goal = read_tasks("libero_goal")
    assert goal[7].instruction == "turn on the stove"
    assert goal[7].goal == (("turnon", "flat_stove_1"),)
    made = InstructionPairs("libero_goal", goal, None, None).tasks()
    assert len({task.task_id for task in made}) == 90
    assert {len(task.judge.goals) for task in made} == {10}
    for suite, why in (("libero_spatial", "one's goal"), ("libero_object", "objects"), ("libero_10", "objects")):
        tasks = read_tasks(suite)
        assert all(task.lacks(task) == [] for task in tasks)
        with pytest.raises(EvalError, match=why):
            InstructionPairs(suite, tasks, None, None).tasks()
        if suite == "libero_10":
            # The basket stands in a scene of task 7, too, whose goal shares a part with either.
            first, _ = InstructionPairs(suite, tasks, [0, 1], [0, 1]).tasks()
            assert [task for task, _ in first.judge.goals] == [0, 1, 7]
