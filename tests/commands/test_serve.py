"""The policy server as a process of its own; robots reach it through our client and through LeRobot's own."""

import logging
import re
import subprocess
import sys
import threading
import time

import pytest
import torch
from lerobot.utils.constants import OBS_STR
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features

from lerobot_atlasvla.serving.client import PolicyClient
from tests.conftest import CHUNK, IMAGE, STATE, TASK, WRIST
from tests.helpers.released import save_checkpoint
from tests.integration.test_rollout import Arm, ArmConfig
from tests.serving.helpers import PATIENCE_S, Local


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "lerobot_atlasvla.policy_server", f"--checkpoint={checkpoint}", "--port=0"]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [*command, "--device=cpu", "--stock_client=true"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        serving = None
        while serving is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            serving = re.search(r"on 127\.0\.0\.1, port (\d+)", (folder / "output.txt").read_text())
        assert serving, (folder / "output.txt").read_text()[-3000:]
        yield f"127.0.0.1:{serving[1]}"
        assert process.poll() is None
        assert "Traceback" not in (folder / "output.txt").read_text()
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def arm(tmp_path):
    arm = Arm(ArmConfig(log=tmp_path / "received.json", calibration_dir=tmp_path))
    arm.connect()
    return arm


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory):
    """The chunk that a local policy predicts for what the arm always sees."""
    folder = tmp_path_factory.mktemp("arm")
    seen = Arm(ArmConfig(log=folder / "received.json", calibration_dir=folder)).get_observation()
    state = torch.tensor([value for name, value in seen.items() if name.endswith(".pos")], dtype=torch.float32)
    images = {IMAGE: seen["image"], WRIST: seen["wrist_image"]}
    return Local(checkpoint).chunk(images | {STATE: state.numpy(), "task": TASK})


def test_the_loop_of_the_clients_documentation(address, arm, expected):
    features = hw_to_dataset_features(arm.observation_features, OBS_STR)
    with PolicyClient(address) as policy:
        policy.reset()
        for _ in range(CHUNK + 2):
            frame = build_dataset_frame(features, arm.get_observation(), OBS_STR)
            action = policy.select_action({**frame, "task": TASK})
            arm.send_action(dict(zip(arm.action_features, action.tolist(), strict=True)))
    received = torch.tensor(arm.received)
    torch.testing.assert_close(received, torch.cat([expected, expected[:2]]), rtol=1e-4, atol=1e-5)


def test_lerobots_own_robot_client(address, arm, expected, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for its log
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from lerobot.async_inference import robot_client
    from lerobot.async_inference.configs import RobotClientConfig

    root.handlers[:] = handlers
    root.setLevel(level)
    monkeypatch.setattr(robot_client, "make_robot_from_config", lambda _: arm)
    client = robot_client.RobotClient(
        RobotClientConfig(
            policy_type="atlasvla",
            pretrained_name_or_path=str(checkpoint),
            robot=ArmConfig(log=arm.log),
            actions_per_chunk=CHUNK,
            server_address=address,
            task=TASK,
            fps=60,
            aggregate_fn_name="latest_only",
        )
    )
    assert client.start()
    receiving = threading.Thread(target=client.receive_actions, daemon=True)
    moving = threading.Thread(target=client.control_loop, args=(TASK,), daemon=True)
    receiving.start()
    moving.start()
    deadline = time.monotonic() + PATIENCE_S
    while len(arm.received) < CHUNK + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    client.shutdown_event.set()
    moving.join(PATIENCE_S)
    receiving.join(PATIENCE_S)
    client.stop()
    received = torch.tensor(arm.received[: CHUNK + 3])
    # The next chunk begins at the last step that was executed, whose action comes too late.
    torch.testing.assert_close(received, torch.cat([expected, expected[1:4]]), rtol=1e-4, atol=1e-5)
