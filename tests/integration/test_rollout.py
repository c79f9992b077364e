"""lerobot-rollout with a robot that only remembers: LeRobot's own engines and control loop around a saved policy."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.robots import RobotConfig
from lerobot.rollout import RolloutConfig, RolloutContext, build_rollout_context, create_strategy
from lerobot.rollout import context as rollout_context
from lerobot.rollout.inference import InferenceEngineConfig, RTCInferenceConfig, SyncInferenceConfig, rtc
from lerobot.utils.feature_utils import build_dataset_frame

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import ACTION_DIM, CHUNK, PIXELS, STATE_DIM, TASK
from tests.helpers import ROOT
from tests.helpers.commands import run_command
from tests.helpers.released import save_checkpoint
from tests.helpers.robot import PretendedRobot

HORIZON = 6
# A rollout ends after this many actions, not after some time: how long they take depends on the machine's load.
ACTIONS = 30
FPS = 50
# A third-party robot for --robot.discover_packages_path: LeRobot looks for its class beside its configuration's.
PLUGIN = """
from lerobot.robots import RobotConfig
from tests.integration import test_rollout
from tests.integration.test_rollout import Arm

@RobotConfig.register_subclass("atlasvla_plugin_arm")
class ArmConfig(test_rollout.ArmConfig):
    pass
"""


@RobotConfig.register_subclass("atlasvla_test_arm")
@dataclass(kw_only=True)
class ArmConfig(RobotConfig):
    # Where the arm writes down the actions it got, when it is disconnected.
    log: Path


class Arm(PretendedRobot):
    """Sees the same all the time, remembers what it is told to do, and after enough of it presses Ctrl-C."""

    config_class = ArmConfig
    name = "atlasvla_test_arm"

    def __init__(self, config: ArmConfig):
        super().__init__(config)
        random = np.random.default_rng(0)
        self._sight = {
            name: float(random.normal()) if kind is float else random.integers(0, 255, kind, np.uint8)
            for name, kind in self.observation_features.items()
        }

    @property
    def observation_features(self) -> dict:
        cameras = dict.fromkeys(("image", "wrist_image"), (PIXELS, PIXELS, 3))
        return {f"joint_{index}.pos": float for index in range(STATE_DIM)} | cameras

    @property
    def action_features(self) -> dict:
        return {f"joint_{index}.pos": float for index in range(ACTION_DIM)}

    def get_observation(self) -> dict:
        return dict(self._sight)

    def send_action(self, action: dict) -> dict:
        self.received.append([action[name] for name in self.action_features])
        if len(self.received) == ACTIONS:
            signal.raise_signal(signal.SIGINT)
        return action


@contextmanager
def rollout(checkpoint: Path, inference: InferenceEngineConfig, monkeypatch) -> Iterator[RolloutContext]:
    """As many actions as the arm takes."""
    monkeypatch.setattr(rollout_context, "make_robot_from_config", Arm)
    policy = PreTrainedConfig.from_pretrained(checkpoint)
    policy.pretrained_path = checkpoint
    config = RolloutConfig(
        robot=ArmConfig(log=checkpoint / "received.json", calibration_dir=checkpoint),
        policy=policy,
        inference=inference,
        fps=FPS,
        duration=0,
        task=TASK,
        return_to_initial_position=False,
        play_sounds=False,
    )
    stop = Event()
    context = build_rollout_context(config, stop)
    strategy = create_strategy(config.strategy)
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        strategy.setup(context)
        yield context
        strategy.run(context)
    finally:
        signal.signal(signal.SIGINT, before)
        strategy.teardown(context)


@pytest.fixture
def two_steps_of_latency(monkeypatch):
    """For the RTC engine, a prediction takes one and a half control steps of time, however long it really takes."""
    now = 0.0
    real = AtlasVLAPolicy.predict_action_chunk

    def predict(self, *arguments, **options):
        nonlocal now
        now += 1.5 / FPS
        return real(self, *arguments, **options)

    monkeypatch.setattr(AtlasVLAPolicy, "predict_action_chunk", predict)
    monkeypatch.setattr(rtc, "time", SimpleNamespace(perf_counter=lambda: now, sleep=rtc.time.sleep))


def received(checkpoint: Path) -> torch.Tensor:
    actions = torch.tensor(json.loads((checkpoint / "received.json").read_text()))
    assert actions.shape == (ACTIONS, ACTION_DIM)
    assert actions.isfinite().all()
    return actions


def chunk_of(context: RolloutContext) -> torch.Tensor:
    """What the policy plans for what the arm sees, in the arm's units."""
    seen = context.hardware.robot_wrapper.get_observation()
    frame = build_dataset_frame(context.data.hw_features, seen, prefix="observation")
    frame = prepare_observation_for_inference(frame, torch.device("cpu"), TASK, Arm.name)
    parts = context.policy
    return parts.postprocessor(parts.policy.predict_action_chunk(parts.preprocessor(frame)))[0]


def test_sync_executes_chunk_after_chunk(tmp_path, monkeypatch):
    with rollout(save_checkpoint(tmp_path, n_action_steps=4), SyncInferenceConfig(), monkeypatch) as context:
        planned = chunk_of(context)
    actions = received(tmp_path)
    expected = planned[:4].repeat(len(actions) // 4 + 1, 1)[: len(actions)]
    torch.testing.assert_close(actions, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("two_steps_of_latency")
def test_rtc_guides_each_chunk_by_the_one_before(tmp_path, monkeypatch):
    calls = []
    real = AtlasVLAPolicy.predict_action_chunk

    def watched(self, batch, *arguments, **options):
        calls.append(options | {"chunk": real(self, batch, *arguments, **options)})
        return calls[-1]["chunk"]

    monkeypatch.setattr(AtlasVLAPolicy, "predict_action_chunk", watched)
    settings = RTCInferenceConfig(rtc=RTCConfig(execution_horizon=HORIZON))
    with rollout(save_checkpoint(tmp_path, head="flow"), settings, monkeypatch) as context:
        assert context.policy.policy.rtc_processor.rtc_config is settings.rtc
    assert not context.policy.inference.failed
    assert len(received(tmp_path)) == ACTIONS
    assert calls[0]["prev_chunk_left_over"] is None
    assert len(calls) > ACTIONS / CHUNK
    for call in calls[1:]:
        assert call["inference_delay"] == 2
        old = call["prev_chunk_left_over"]
        assert old.shape == (HORIZON, ACTION_DIM)
        assert (call["chunk"][0, :2] - old[:2]).abs().max() < 0.5


@pytest.mark.parametrize("chunk_size", [4, CHUNK])
@pytest.mark.usefixtures("two_steps_of_latency")
def test_rtc_works_with_lerobots_default_horizon(tmp_path, monkeypatch, chunk_size):
    """Ten steps, whatever the policy's chunk size."""
    checkpoint = save_checkpoint(tmp_path, head="flow", chunk_size=chunk_size, n_action_steps=2)
    with rollout(checkpoint, RTCInferenceConfig(), monkeypatch) as context:
        pass
    assert not context.policy.inference.failed
    assert len(received(tmp_path)) == ACTIONS


def test_rtc_with_the_l1_head_is_refused_before_the_robot_moves(tmp_path, monkeypatch, caplog):
    with (
        pytest.raises(ValueError, match=r"--inference\.type=sync"),
        rollout(save_checkpoint(tmp_path), RTCInferenceConfig(), monkeypatch),
    ):
        pass
    assert "--policy.head=flow" in caplog.text
    assert not (tmp_path / "received.json").exists()


@pytest.mark.parametrize(
    ("head", "flags"),
    [("l1", ["--inference.type=sync"]), ("flow", ["--inference.type=rtc", "--inference.rtc.execution_horizon=6"])],
)
def test_the_command_moves_a_robot(tmp_path, head, flags):
    plugin = tmp_path / "plugins" / "test_arm"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    # RTC drops as many actions of a chunk as fit into the time its prediction took: enough for a very busy machine.
    checkpoint = save_checkpoint(tmp_path / "checkpoint", head=head, chunk_size=200)
    done = run_command(
        "lerobot-rollout",
        f"--policy.path={checkpoint}",
        "--robot.discover_packages_path=test_arm",
        "--robot.type=atlasvla_plugin_arm",
        f"--robot.log={checkpoint / 'received.json'}",
        f"--robot.calibration_dir={tmp_path}",
        f"--task={TASK}",
        "--fps=15",
        "--duration=0",
        "--return_to_initial_position=false",
        "--play_sounds=false",
        *flags,
        cwd=tmp_path,
        environment={"PYTHONPATH": os.pathsep.join((str(plugin.parent), str(ROOT)))},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert len(received(checkpoint)) == ACTIONS
