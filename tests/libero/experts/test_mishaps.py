"""Mishaps come about, leave something to recover from, and the expert recovers from them."""

from collections.abc import Iterator

import numpy as np
import pytest

from eval.rollout.experts import without_cameras
from lerobot_atlasvla.libero.demonstrations.task_scene import NO_OP
from lerobot_atlasvla.libero.experts import mishaps
from lerobot_atlasvla.libero.experts.mishaps import ClumsyExpert, Mishap
from lerobot_atlasvla.libero.experts.scripted import CLOSED, OPEN, Phase, ScriptedExpert
from lerobot_atlasvla.libero.tasks import SETTLE_STEPS

TASK = 1
"""The way from bowl to plate is long enough to lose the bowl on."""


class Scene:
    """One task's environment and what can be seen of it without pictures."""

    def __init__(self, env, task_name: str) -> None:
        self.env = env
        self.clumsy = ClumsyExpert(env, task_name)
        self.expert = ScriptedExpert(env, task_name)

    def reset(self, seed: int) -> None:
        self.env.env.object_property_initializers.clear()
        self.env.seed(seed)
        self.env.reset()
        for _ in range(SETTLE_STEPS):
            self.env.step(NO_OP)

    def run(self, actions: Iterator[np.ndarray]) -> list[np.ndarray]:
        executed = []
        for action in actions:
            self.env.step(action)
            executed.append(action)
        return executed

    def solve(self) -> list[np.ndarray]:
        """The expert's actions up to its end, at most 280."""

        def actions() -> Iterator[np.ndarray]:
            self.expert.reset()
            while self.expert.phase is not Phase.DONE:
                yield self.expert.act()

        return self.run(action for action, _ in zip(actions(), range(280), strict=False))

    @property
    def bowl(self) -> np.ndarray:
        return self.env.sim.data.body_xpos[self.env.env.obj_body_id["akita_black_bowl_1"]].copy()

    @property
    def hand(self) -> np.ndarray:
        return self.env.sim.data.get_site_xpos("gripper0_grip_site").copy()

    @property
    def gap(self) -> float:
        left, right = (self.env.sim.data.get_joint_qpos(f"gripper0_finger_joint{n}") for n in (1, 2))
        return float(left - right)


@pytest.fixture(scope="module")
def scene(suite):
    task = suite.get_task(TASK)
    with without_cameras(task) as env:
        yield Scene(env, task.name)


@pytest.mark.parametrize("mishap", Mishap)
def test_the_expert_recovers_from_every_kind(scene, mishap):
    scene.reset(seed=4)
    start = scene.bowl
    executed = scene.run(scene.clumsy.act_out(mishap, np.random.default_rng(4)))
    assert scene.clumsy.went_wrong()
    assert len(executed) <= mishaps.MAX_STEPS
    moved = np.linalg.norm((scene.bowl - start)[:2])
    assert abs(scene.bowl[2] - start[2]) < 0.03  # on the table, or on the edge of something on it
    match mishap:
        case Mishap.MISSED:
            assert executed[-1][6] == CLOSED
            assert scene.gap < 0.004  # nothing in between
        case Mishap.LOST:
            assert CLOSED in [action[6] for action in executed]
            assert moved > 0.01
        case Mishap.PUSHED:
            assert {action[6] for action in executed} == {OPEN}
            assert moved > 0.01

    before = np.linalg.norm(scene.hand - scene.bowl)
    way_back = scene.solve()
    assert scene.env.check_success()
    assert scene.expert.phase is Phase.DONE
    assert scene.expert.grasps == 1
    # It opens at once, and is where the bowl can be grasped before it closes.
    first_closed = next(step for step, action in enumerate(way_back) if action[6] == CLOSED)
    assert first_closed > 0
    assert before > 0.03


def test_a_bowl_in_the_gripper_is_no_mishap(scene, monkeypatch):
    for name in ("BESIDE_M", "INSIDE_M", "ABOVE_M"):
        monkeypatch.setattr(mishaps, name, (0.0, 0.0))
    monkeypatch.setattr(mishaps, "ALONG_M", 0.0)
    scene.reset(seed=1)
    scene.run(scene.clumsy.act_out(Mishap.MISSED, np.random.default_rng(0)))
    assert not scene.clumsy.went_wrong()


def test_a_bowl_on_the_plate_or_upside_down_is_no_mishap(scene):
    scene.reset(seed=1)
    scene.run(scene.clumsy.act_out(Mishap.PUSHED, np.random.default_rng(1)))
    assert scene.clumsy.went_wrong()
    joint = scene.env.env.get_object("akita_black_bowl_1").joints[0]
    pose = scene.env.sim.data.get_joint_qpos(joint).copy()
    scene.env.sim.data.set_joint_qpos(joint, np.array([*pose[:3], 0.0, 1.0, 0.0, 0.0]))
    scene.env.sim.forward()
    assert not scene.clumsy.went_wrong()
    scene.env.sim.data.set_joint_qpos(joint, pose)
    scene.env.sim.forward()
    assert scene.clumsy.went_wrong()
    scene.solve()
    assert scene.env.check_success()
    assert not scene.clumsy.went_wrong()


def test_a_mishap_that_does_not_come_about_is_given_up(scene):
    scene.reset(seed=1)
    # Nothing is executed, so the hand never gets to the bowl.
    actions = list(scene.clumsy.act_out(Mishap.LOST, np.random.default_rng(0)))
    assert len(actions) == mishaps.MAX_STEPS
    assert not scene.clumsy.went_wrong()


def test_fingers_that_stand_on_something_close_there(scene):
    scene.reset(seed=1)
    actions = list(scene.clumsy.act_out(Mishap.MISSED, np.random.default_rng(0)))
    assert [action[6] for action in actions[: mishaps.MISS_PATIENCE_STEPS]] == [OPEN] * mishaps.MISS_PATIENCE_STEPS
    assert actions[mishaps.MISS_PATIENCE_STEPS][6] == CLOSED


def test_every_kind_is_drawn(scene):
    rng = np.random.default_rng(0)
    drawn = [scene.clumsy.draw(rng) for _ in range(2000)]
    assert {mishap: round(drawn.count(mishap) / 2000, 1) for mishap in Mishap} == {
        Mishap.MISSED: 0.5,
        Mishap.LOST: 0.3,
        Mishap.PUSHED: 0.2,
    }
