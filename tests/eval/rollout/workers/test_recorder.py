"""What the recorder around LeRobot's environment does: perturbations, the retreat after a success, notes."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from eval.rollout.workers.recorder import EpisodeRecorder
from eval.rollout.workers.scene import Judgment
from lerobot_atlasvla.libero.patches.frame_skipping import ENV_RENDER_EVERY


class Environment(gym.Env):
    """Succeeds in step 3, and no longer in step 5."""

    _max_episode_steps = 10
    num_steps_wait = 2

    def __init__(self):
        self.taken = 0
        state = SimpleNamespace(flatten=lambda: np.array([self.taken, 0.0]))
        sim = SimpleNamespace(get_state=lambda: state, data=SimpleNamespace(site_xpos=np.zeros((2, 3))))
        self._env = SimpleNamespace(sim=sim, robots=[SimpleNamespace(eef_site_id=1)])

    def _observation(self):
        self._env.sim.data.site_xpos[1, 0] = self.taken
        return {"pixels": {"image": np.full((2, 2, 3), self.taken, np.uint8)}}

    def reset(self, **_):
        self.taken = 0
        return self._observation(), {}

    def step(self, _):
        self.taken += 1
        success = self.taken in (3, 4)
        return self._observation(), 0.0, success, False, {"is_success": success}


class Perturbation:
    def __init__(self):
        self.calls: list = []

    def prepare(self, env):
        self.calls.append("prepare")

    def observe(self, observation, frame, seed, view):
        self.calls.append((frame, seed, view))
        return observation | {"seen": frame}


def steps(recorder: EpisodeRecorder) -> list[tuple[bool, bool]]:
    recorder.reset()
    outcomes = []
    while len(outcomes) < 20:
        _, _, terminated, _, info = recorder.step(None)
        outcomes.append((terminated, info["is_success"]))
        if terminated:
            break
    return outcomes


def test_an_episode_ends_with_its_success():
    recorder = EpisodeRecorder(Environment())
    assert steps(recorder) == [(False, False), (False, False), (True, True)]
    assert (recorder.steps, len(recorder.states)) == (3, 4)


@pytest.mark.parametrize(("retreat", "taken"), [(1, 4), (4, 7), (50, 10)])
def test_a_retreat_follows_a_success_and_does_not_undo_it(retreat, taken):
    recorder = EpisodeRecorder(Environment(), retreat_steps=retreat)
    outcomes = steps(recorder)
    assert outcomes[2:] == [(False, True)] * (taken - 3) + [(True, True)]
    assert (recorder.steps, len(recorder.states)) == (3, taken + 1)
    assert [position[0] for position in recorder.gripper_m] == list(range(taken + 1))
    # And the next episode knows nothing of it.
    assert steps(recorder) == outcomes


def test_a_perturbation_sees_the_frames_that_are_rendered(monkeypatch):
    monkeypatch.setenv(ENV_RENDER_EVERY, "2")
    recorder = EpisodeRecorder(Environment(), scene_view="image", retreat_steps=50)
    recorder.perturbation, recorder.seed = Perturbation(), 7
    observation, _ = recorder.reset()
    assert observation["seen"] == 2
    assert [recorder.step(None)[0].get("seen") for _ in range(4)] == [None, 4, None, 6]
    assert recorder.perturbation.calls == ["prepare", *((frame, 7, "image") for frame in (2, 4, 6))]


class LastStep:
    """Ends an episode in a step of its own choice, whatever LIBERO says."""

    def __init__(self, step: int, success: bool):
        self.step, self.success = step, success

    def assess(self, env, before):
        assert (before is None) == (env.taken == 0)
        over = env.taken == self.step
        return Judgment(over, over and self.success, {"taken": env.taken})


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("step", [2, 6])
def test_a_judge_decides_instead_of_the_scenes_goal(step, success):
    recorder = EpisodeRecorder(Environment())
    recorder.judge = LastStep(step, success)
    assert steps(recorder) == [(False, False)] * (step - 1) + [(True, success)]
    assert recorder.steps == step
    assert recorder.judgment is not None
    assert recorder.judgment.record == {"taken": step}
    recorder.judge = None
    assert steps(recorder)[-1] == (True, True)
    assert (recorder.steps, recorder.judgment) == (3, None)
