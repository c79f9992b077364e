"""A robot whose policy runs elsewhere: the server as a process of its own, LeRobot's messages over a real socket."""

import pickle
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation, raw_observation_to_observation
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks
from lerobot.utils.feature_utils import hw_to_dataset_features

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors, policy_server
from tests.conftest import ACTION_DIM, CHUNK, PIXELS, STATE_DIM, TASK, dataset_stats
from tests.released import save_checkpoint

# What a robot tells the client about itself: joints by name, cameras by shape.
JOINTS = {f"joint_{index}.pos": float for index in range(STATE_DIM)}
ROBOT = JOINTS | dict.fromkeys(("image", "wrist_image"), (PIXELS, PIXELS, 3))
FEATURES = hw_to_dataset_features(ROBOT, "observation", use_video=False)
PATIENCE_S = 600  # it is a hang after that; importing LeRobot takes seven seconds on a quiet machine


@contextmanager
def serving(module: str, folder: Path):
    """A channel to a server that runs until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--host=127.0.0.1", f"--port={port}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options()) as channel:
            ready = grpc.channel_ready_future(channel)
            deadline = time.monotonic() + PATIENCE_S
            while not ready.done() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert ready.done(), (folder / "output.txt").read_text()[-3000:]
            yield services_pb2_grpc.AsyncInferenceStub(channel)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving("lerobot_atlasvla.policy_server", tmp_path_factory.mktemp("server")) as stub:
        yield stub


def instruct(server, checkpoint: Path, actions: int = CHUNK) -> None:
    server.Ready(services_pb2.Empty())
    wanted = RemotePolicyConfig("atlasvla", str(checkpoint), FEATURES, actions)
    server.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(wanted)))


def observe(seed: int, task: str = TASK) -> dict:
    """What a robot sees: floats by joint, pictures as bytes."""
    random = np.random.default_rng(seed)
    seen = {
        name: float(random.normal()) if kind is float else random.integers(0, 255, kind, np.uint8)
        for name, kind in ROBOT.items()
    }
    return seen | {"task": task}


def act(server, observation: dict, step: int = 0) -> list:
    timed = TimedObservation(timestamp=time.time(), timestep=step, observation=observation, must_go=True)
    server.SendObservations(send_bytes_in_chunks(pickle.dumps(timed), services_pb2.Observation))
    return pickle.loads(server.GetActions(services_pb2.Empty()).data)


def locally(checkpoint: Path, observation: dict) -> torch.Tensor:
    """The same policy without a network in between."""
    policy = AtlasVLAPolicy.from_pretrained(checkpoint)
    preprocessor, postprocessor = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    batch = preprocessor(raw_observation_to_observation(observation, FEATURES, policy.config.image_features))
    return postprocessor(policy.predict_action_chunk(batch))[0]


def test_the_server_answers_with_the_actions_of_the_policy(server, checkpoint):
    instruct(server, checkpoint)
    chunks = []
    for step, seed in ((0, 1), (5, 2)):
        answer = act(server, observe(seed), step)
        assert [timed.get_timestep() for timed in answer] == list(range(step, step + CHUNK))
        chunks.append(torch.stack([timed.get_action() for timed in answer]))
        assert chunks[-1].shape == (CHUNK, ACTION_DIM)
        assert chunks[-1].isfinite().all()
        torch.testing.assert_close(chunks[-1], locally(checkpoint, observe(seed)), rtol=1e-4, atol=1e-5)
    assert not torch.equal(*chunks)


def test_the_next_client_brings_another_policy(server, tmp_path):
    instruct(server, save_checkpoint(tmp_path, head="flow"), actions=4)
    actions = torch.stack([timed.get_action() for timed in act(server, observe(3))])
    assert actions.shape == (4, ACTION_DIM)
    assert actions.isfinite().all()


def test_lerobots_own_server_knows_no_plugins(checkpoint, tmp_path):
    """The reason for ours; once this fails, ours can go."""
    with (
        serving("lerobot.async_inference.policy_server", tmp_path) as stock,
        pytest.raises(grpc.RpcError, match="atlasvla not supported"),
    ):
        instruct(stock, checkpoint)


def test_without_grpc_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot.async_inference", None)
    with pytest.raises(SystemExit, match=r"pip install 'lerobot_policy_atlasvla\[async\]'"):
        policy_server.main()
