"""LIBERO's goal suite in the simulator: a state that satisfies one task's goal, in the scene of another."""

from types import SimpleNamespace

import numpy as np
import pytest

from eval.reading.goals import read_tasks
from eval.reading.pairs import InstructionPairs
from eval.rollout.experts import without_cameras
from lerobot_atlasvla.libero import assets

BOWL_ON_STOVE, BOWL_ON_CABINET, STOVE = 1, 4, 7
NO_MOTION = [0, 0, 0, 0, 0, 0, -1]


@pytest.fixture(scope="module")
def scene():
    """The scene of "put the bowl on the stove", settled."""
    from lerobot_atlasvla.libero.setup import prepare_libero

    if prepare_libero().kind == assets.STAND_IN:
        pytest.skip("needs LIBERO's own assets: the extra libero-assets, or ATLASVLA_LIBERO_ASSETS")
    from libero.libero import benchmark

    with without_cameras(benchmark.get_benchmark_dict()["libero_goal"]().get_task(BOWL_ON_STOVE)) as env:
        env.seed(0)
        env.reset()
        for _ in range(10):
            env.step(NO_MOTION)
        yield env


@pytest.mark.parametrize(
    ("state", "told", "outcome"),
    [
        (BOWL_ON_STOVE, STOVE, "told"),
        (STOVE, BOWL_ON_STOVE, "collected_for"),
        (BOWL_ON_STOVE, BOWL_ON_CABINET, "another"),
    ],
)
def test_turning_the_stove_on_is_judged_in_the_scene_of_another_task(scene, state, told, outcome):
    (task,) = InstructionPairs("libero_goal", read_tasks("libero_goal"), [state], [told]).tasks()
    env = SimpleNamespace(_env=scene)
    start = task.judge.assess(env, None)
    assert (start.over, start.record["true_at_start"]) == (False, [])
    assert start.record["judged"] == list(range(10))
    (joint,) = scene.env.get_object("flat_stove_1").joints
    before = np.copy(scene.sim.data.qpos)
    try:
        scene.sim.data.set_joint_qpos(joint, 1.0)
        scene.sim.forward()
        turned = task.judge.assess(env, start)
    finally:
        scene.sim.data.qpos[:] = before
        scene.sim.forward()
    assert (turned.over, turned.success) == (True, outcome == "told")
    assert (turned.record["outcome"], turned.record["goal"]) == (outcome, STOVE)
    assert not task.judge.assess(env, start).over
