"""Plans name LIBERO's tasks, in its order, and one short task of every suite is solved."""

import numpy as np
import pytest

from eval.rollout.experts import place, solve, table, without_cameras
from lerobot_atlasvla.libero.experts.mishaps import ClumsyExpert, has_mishaps
from lerobot_atlasvla.libero.experts.motion import OPEN
from lerobot_atlasvla.libero.experts.scripted import PLANS, ScriptedExpert, known_tasks, moves_objects
from lerobot_atlasvla.libero.setup import prepare_libero
from lerobot_atlasvla.libero.tasks import SUITE_MAX_STEPS


@pytest.fixture(scope="module")
def suites():
    prepare_libero()
    from libero.libero import benchmark

    return {name: benchmark.get_benchmark_dict()[name]() for name in PLANS}


def test_the_plans_are_the_tasks_of_the_suites_in_their_order(suites):
    assert {name: list(plans) for name, plans in PLANS.items()} == {
        name: [task.name for task in suite.tasks] for name, suite in suites.items()
    }


def test_tasks_without_expert_are_told_apart():
    assert {suite: len(known_tasks(suite)) for suite in (*PLANS, "libero_90")} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 0,
    }
    assert [task for task in known_tasks("libero_goal") if not moves_objects("libero_goal", task)] == [0, 7]
    without = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
    with pytest.raises(ValueError, match=f"does not know the task '{without}'"):
        ScriptedExpert(env=None, task_name=without)


def test_mishaps_are_known_at_a_bowls_rim_only():
    assert has_mishaps("put_the_bowl_on_the_stove")
    mugs = "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate"
    for name in ("turn_on_the_stove", "pick_up_the_milk_and_place_it_in_the_basket", mugs):
        assert not has_mishaps(name)
        with pytest.raises(ValueError, match=f"No mishap is known for the task '{name}'"):
            ClumsyExpert(env=None, task_name=name)


def test_the_limits_of_steps_are_those_of_lerobot():
    from lerobot.envs.libero import TASK_SUITE_MAX_STEPS

    assert SUITE_MAX_STEPS == TASK_SUITE_MAX_STEPS


def test_the_table_counts_failures():
    row = {"suite": "libero_goal", "task_id": 7, "task": "turn_on_the_stove", "noise": 0.0}
    rows = [{**row, "seed": seed, "steps": steps} for seed, steps in enumerate([80, None, 90])]
    assert table(rows).splitlines()[-1] == "| 7 turn_on_the_stove | 2/3 | 21-94 | 85, 90 | 1 |"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("suite", "task_id"),
    [
        ("libero_object", 7),
        *(("libero_goal", task_id) for task_id in (0, 5, 7, 9)),
        *(("libero_10", task_id) for task_id in (0, 1, 2, 3, 4, 5, 6, 8, 9)),
    ],
)
def test_a_random_placement_is_solved(suites, suite, task_id):
    task = suites[suite].get_task(task_id)
    with without_cameras(task) as env:
        expert = ScriptedExpert(env, task.name)
        assert solve(env, expert, seed=0, noise=0.0, max_steps=SUITE_MAX_STEPS[suite])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 10])
def test_the_drawers_handle_is_not_in_the_way_to_the_bowl(suites, seed):
    """Taken by the rim next to the drawer, the bowl of these placements was not reached in time."""
    task = suites["libero_goal"].get_task(3)
    with without_cameras(task) as env:
        assert solve(env, ScriptedExpert(env, task.name), seed, noise=0.0, max_steps=SUITE_MAX_STEPS["libero_goal"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plate_is_pushed_with_a_noisy_hand_too(suites):
    task = suites["libero_goal"].get_task(5)
    with without_cameras(task) as env:
        expert = ScriptedExpert(env, task.name)
        steps = [solve(env, expert, seed, noise=1.0, max_steps=200) for seed in range(3)]
    assert all(steps), steps


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hand_beside_the_knob_rises_first(suites):
    """Fingers that go straight to the knob from beside hook on its side."""
    task = suites["libero_goal"].get_task(7)
    with without_cameras(task) as env:
        place(env, seed=0)
        expert = ScriptedExpert(env, task.name)
        expert.reset()
        knob = env.sim.data.get_body_xpos("flat_stove_1_button").copy()

        def off():
            return env.sim.data.get_site_xpos("gripper0_grip_site") - knob

        while off()[2] > 0.07:
            env.step(expert.act())
        while off()[1] > -0.06:
            env.step(np.array([0, -1, 0, 0, 0, 0, OPEN]))
        assert expert.act()[2] > 0.2
