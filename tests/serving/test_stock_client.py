"""LeRobot's own robot client against our server, in this process; its messages over a real socket."""

import logging
import os
import pickle
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation, raw_observation_to_observation
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks
from lerobot.utils.feature_utils import hw_to_dataset_features

from tests.conftest import ACTION_DIM, CHUNK, PIXELS, STATE_DIM, TASK
from tests.serving.helpers import serving

# What a robot tells the client about itself: joints by name, cameras by shape.
JOINTS = {f"joint_{index}.pos": float for index in range(STATE_DIM)}
ROBOT = JOINTS | dict.fromkeys(("image", "wrist_image"), (2 * PIXELS, 2 * PIXELS, 3))
FEATURES = hw_to_dataset_features(ROBOT, "observation", use_video=False)


@pytest.fixture(scope="module")
def address(served, tmp_path_factory):
    """LeRobot's server module makes a folder for its log and sets up logging when it is imported."""
    folder, root = os.getcwd(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    os.chdir(tmp_path_factory.mktemp("log"))
    try:
        with serving(served, stock_client=True, max_sessions=3, max_message_mb=3) as address:
            root.handlers[:] = handlers
            root.setLevel(level)
            yield address
    finally:
        os.chdir(folder)


class Robot:
    """LeRobot's robot client without its robot."""

    def __init__(self, address: str):
        options = [*grpc_channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options)
        self.stub = services_pb2_grpc.AsyncInferenceStub(self.channel)

    def start(self, path: str, **asked) -> None:
        values = {"policy_type": "atlasvla", "lerobot_features": FEATURES, "actions_per_chunk": CHUNK} | asked
        self.stub.Ready(services_pb2.Empty())
        self.instruct(pickle.dumps(RemotePolicyConfig(pretrained_name_or_path=path, **values)))

    def instruct(self, pickled: bytes) -> None:
        self.stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickled))

    def send(self, pickled: bytes) -> None:
        self.stub.SendObservations(send_bytes_in_chunks(pickled, services_pb2.Observation))

    def observe(self, observation: dict, step: int = 0, must_go: bool = True) -> None:
        timed = TimedObservation(timestamp=time.time(), timestep=step, observation=observation, must_go=must_go)
        self.send(pickle.dumps(timed))

    def act(self) -> list:
        data = self.stub.GetActions(services_pb2.Empty()).data
        return pickle.loads(data) if data else []


@pytest.fixture
def robot(address):
    robot = Robot(address)
    yield robot
    robot.stub.Ready(services_pb2.Empty())  # ends the session
    robot.channel.close()


def seen(seed: int, task: str = TASK) -> dict:
    random = np.random.default_rng(seed)
    observation = {
        name: float(random.normal()) if kind is float else random.integers(0, 255, kind, np.uint8)
        for name, kind in ROBOT.items()
    }
    return observation | {"task": task}


def expected(local, observation: dict) -> torch.Tensor:
    batch = raw_observation_to_observation(observation, FEATURES, local.policy.config.image_features)
    return local.postprocess(local.policy.predict_action_chunk(local.preprocess(batch))[0])


def refusal(call, *arguments) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code().name, caught.value.details()


def test_it_gets_the_actions_of_the_policy(robot, checkpoint, local):
    robot.start(str(checkpoint))
    for step, seed in ((0, 1), (5, 2)):
        robot.observe(seen(seed), step)
        answer = robot.act()
        assert [timed.get_timestep() for timed in answer] == list(range(step, step + CHUNK))
        actions = torch.stack([timed.get_action() for timed in answer])
        assert actions.shape == (CHUNK, ACTION_DIM)
        torch.testing.assert_close(actions, expected(local, seen(seed)))


def test_several_clients_keep_their_own_settings_and_actions(address, checkpoint, local):
    robots = [Robot(address) for _ in range(3)]
    for count, robot in enumerate(robots, 1):
        robot.start(str(checkpoint), actions_per_chunk=count, device="cuda")
    for count, robot in enumerate(robots, 1):
        robot.observe(seen(10 * count))
    for count, robot in reversed(list(enumerate(robots, 1))):
        actions = torch.stack([timed.get_action() for timed in robot.act()])
        torch.testing.assert_close(actions, expected(local, seen(10 * count))[:count])
    fourth = Robot(address)
    assert refusal(fourth.start, str(checkpoint))[0] == "RESOURCE_EXHAUSTED"
    for robot in (*robots, fourth):
        robot.stub.Ready(services_pb2.Empty())
        robot.channel.close()


def test_the_newest_observation_counts_and_similar_ones_are_skipped(robot, checkpoint, local):
    robot.start(str(checkpoint))
    robot.observe(seen(1), 0)
    robot.observe(seen(2), 1)
    answer = robot.act()
    assert answer[0].get_timestep() == 1
    torch.testing.assert_close(answer[0].get_action(), expected(local, seen(2))[0])
    # LeRobot's rule: the same joints again are no news unless the client insists. Nothing comes within two seconds.
    robot.observe(seen(2), 2, must_go=False)
    assert robot.act() == []


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"path": "another/policy"}, "another/policy"),
        ({"path": "{served}/../other"}, "/other"),
        ({"policy_type": "act"}, "of type act"),
        ({"rename_map": {"a": "b"}}, "rename"),
        ({"actions_per_chunk": 0}, "actions_per_chunk"),
        ({"actions_per_chunk": "10"}, "actions_per_chunk"),
        ({"path": ["a"]}, "pretrained_name_or_path"),
        ({"lerobot_features": None}, "lerobot_features"),
        ({"lerobot_features": {"observation.state": FEATURES["observation.state"]}}, "observation.images.image"),
        ({"lerobot_features": FEATURES | {"observation.state": {"names": ["a"]}}}, "must have 8 numbers"),
        ({"lerobot_features": FEATURES | {"observation.state": {"names": [["a"]] * 8}}}, "list of names"),
    ],
)
def test_what_is_not_served_is_refused_by_name(robot, checkpoint, asked, named):
    path = asked.pop("path", "{served}")
    path = path.format(served=checkpoint) if isinstance(path, str) else path
    code, text = refusal(lambda: robot.start(path, **asked))
    assert code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")
    assert named in text
    assert refusal(robot.act)[0] == "NOT_FOUND"


def test_without_instructions_nothing_is_computed(robot):
    assert refusal(robot.observe, seen(1))[0] == "NOT_FOUND"
    assert refusal(robot.act)[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"joint_3.pos": float("nan")}, "joint_3.pos"),
        ({"joint_3.pos": float("inf")}, "joint_3.pos"),
        ({"joint_3.pos": "1.0"}, "joint_3.pos"),
        ({"joint_3.pos": np.zeros(3, np.float32)}, "joint_3.pos"),
        ({"joint_3.pos": 10**400}, "joint_3.pos"),
        ({"task": "half of a character: \ud83d"}, "task must be text"),
        ({"image": None}, "image must be an image"),
        ({"image": np.zeros((32, 32), np.uint8)}, "(32, 32)"),
        ({"image": np.zeros((32, 32, 3), np.float32)}, "float32"),
        ({"image": np.zeros((0, 32, 3), np.uint8)}, "(0, 32, 3)"),
        ({"task": 3}, "task"),
        ({"task": "x" * 5000}, "task"),
        ({"image": np.zeros((1050, 1050, 3), np.uint8)}, "--max_message_mb"),
    ],
)
def test_observations_that_do_not_fit_are_refused_by_name(robot, checkpoint, change, named):
    robot.start(str(checkpoint))
    code, text = refusal(robot.observe, seen(1) | change)
    assert code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert named in text


def test_a_missing_camera_is_named(robot, checkpoint):
    robot.start(str(checkpoint))
    observation = seen(1)
    del observation["wrist_image"]
    assert "wrist_image" in refusal(robot.observe, observation)[1]


def test_numbers_of_numpy_are_numbers(robot, checkpoint, local):
    robot.start(str(checkpoint))
    observation = seen(1)
    robot.observe({name: np.float64(value) if type(value) is float else value for name, value in observation.items()})
    torch.testing.assert_close(robot.act()[0].get_action(), expected(local, observation)[0])


class Touch:
    """A pickle that makes a file when it is read."""

    def __reduce__(self):
        return os.system, ("touch marker",)


def test_a_hostile_pickle_runs_nothing(robot, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (robot.instruct, robot.observe):
        robot.start(str(checkpoint))
        argument = pickle.dumps(Touch()) if call == robot.instruct else seen(1) | {"task": Touch()}
        code, text = refusal(call, argument)
        assert code == "INVALID_ARGUMENT"
        assert f"{os.system.__module__}.system" in text
    assert not list(tmp_path.iterdir())
    assert refusal(robot.instruct, b"garbage")[0] == "INVALID_ARGUMENT"
    assert refusal(robot.send, b"")[0] in ("INVALID_ARGUMENT", "INTERNAL")
    robot.observe(seen(1))
    assert len(robot.act()) == CHUNK


def test_lerobots_own_server_runs_it(address, tmp_path, monkeypatch):
    """The reason for ours, as far as pickles go; once this fails, LeRobot's is safe."""
    from lerobot.async_inference.policy_server import PolicyServer, PolicyServerConfig

    monkeypatch.chdir(tmp_path)
    context = SimpleNamespace(peer=lambda: "robot")
    with pytest.raises(TypeError, match="RemotePolicyConfig"):
        PolicyServer(PolicyServerConfig()).SendPolicyInstructions(
            services_pb2.PolicySetup(data=pickle.dumps(Touch())), context
        )
    assert (tmp_path / "marker").exists()


def test_it_is_not_served_unless_asked_for(served, checkpoint):
    with serving(served) as address:
        assert refusal(Robot(address).start, str(checkpoint))[0] == "UNIMPLEMENTED"
