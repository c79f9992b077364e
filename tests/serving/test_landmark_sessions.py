"""A policy with landmarks remembers the cameras of an episode: on the server, of every session by itself."""

import pickle

import pytest
import torch

from lerobot_atlasvla.serving.client import PolicyClient
from lerobot_atlasvla.serving.served_policy import ServedPolicy
from tests.helpers.landmark_policies import save_checkpoint
from tests.serving.helpers import Local, observe, serving


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("landmarks"))


@pytest.fixture(scope="module")
def address(checkpoint):
    with serving(ServedPolicy.load(str(checkpoint), "cpu"), stock_client=False) as address:
        yield address


@pytest.fixture(scope="module")
def local(checkpoint):
    return Local(checkpoint)


def episode(local: Local, seeds: list[int]) -> list[torch.Tensor]:
    local.policy.reset()
    return [local.select_action(observe(seed)) for seed in seeds]


def test_sessions_that_take_turns_have_cameras_of_their_own(address, local):
    mine, yours = episode(local, [1, 2, 3]), episode(local, [4, 5, 6])
    assert not torch.allclose(mine[2], episode(local, [3])[0], atol=1e-5)
    with PolicyClient(address) as one, PolicyClient(address) as other:
        for step in range(3):
            torch.testing.assert_close(one.select_action(observe(1 + step)), mine[step])
            torch.testing.assert_close(other.select_action(observe(4 + step)), yours[step])
        # Only the one who resets starts anew.
        one.reset()
        torch.testing.assert_close(one.select_action(observe(3)), episode(local, [3])[0])
        torch.testing.assert_close(other.select_action(observe(1)), episode(local, [4, 5, 6, 1])[3])


def test_a_chunk_asked_for_counts_as_a_look(address, local):
    local.policy.reset()
    expected = [local.chunk(observe(seed)) for seed in (1, 2)]
    with PolicyClient(address) as client:
        for seed, chunk in zip((1, 2), expected, strict=True):
            torch.testing.assert_close(client.predict_action_chunk(observe(seed)), chunk)


def test_lerobots_client_has_cameras_per_connection(checkpoint, local, tmp_path, monkeypatch):
    # LeRobot's server module makes a folder for its log when it is imported.
    monkeypatch.chdir(tmp_path)
    from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation

    from lerobot_atlasvla.serving import restricted_pickle
    from lerobot_atlasvla.serving.stock_client import _Robot
    from tests.serving.test_stock_client import FEATURES, expected, seen

    served = ServedPolicy.load(str(checkpoint), "cpu")
    asked = pickle.dumps(RemotePolicyConfig("atlasvla", str(checkpoint), FEATURES, 10))
    instructions = restricted_pickle.load_message(asked, restricted_pickle.RemotePolicyConfig)
    robots = [_Robot(served, instructions, 30) for _ in range(2)]

    def act(robot: _Robot, seed: int) -> torch.Tensor:
        return torch.stack([a.get_action() for a in robot.predict(TimedObservation(0.0, seed, seen(seed)))])

    local.policy.reset()
    chunks = [expected(local, seen(seed)) for seed in (1, 2)]
    torch.testing.assert_close(act(robots[0], 1), chunks[0])
    act(robots[1], 3)
    torch.testing.assert_close(act(robots[0], 2), chunks[1])
