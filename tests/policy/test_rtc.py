"""Real-time chunking with LeRobot's own processor: which heads can, what guidance does, how it is switched."""

import json
from dataclasses import dataclass
from functools import partial

import draccus
import pytest
import torch
from lerobot.configs import RTCAttentionSchedule
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.rollout.inference.rtc import supports_rtc_inference

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import ACTION_DIM, CHUNK, tiny_config
from tests.helpers.released import open_gates, preprocessed, released_policy, tiny_policy, write_all

DELAY, HORIZON = 3, 6


make_policy = partial(tiny_policy, head="flow")


def rolled_out(policy: AtlasVLAPolicy, **settings) -> AtlasVLAPolicy:
    """What lerobot-rollout --inference.type=rtc does to a policy."""
    policy.config.rtc_config = RTCConfig(**({"execution_horizon": HORIZON} | settings))
    policy.init_rtc_processor()
    return policy


@pytest.fixture(scope="module")
def batch():
    return {k: v[:1] for k, v in preprocessed(tiny_config()).items() if isinstance(v, torch.Tensor)}


def noise() -> torch.Tensor:
    return torch.randn(1, CHUNK, ACTION_DIM, generator=torch.Generator().manual_seed(0))


def left_over(steps: int = HORIZON) -> torch.Tensor:
    return torch.linspace(-2, 2, steps * ACTION_DIM).view(steps, ACTION_DIM)


def guided(policy: AtlasVLAPolicy, batch: dict, old: torch.Tensor | None, **options) -> torch.Tensor:
    return policy.predict_action_chunk(
        batch, noise=noise(), **({"inference_delay": DELAY, "prev_chunk_left_over": old} | options)
    )


def distance(chunk: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Per step, over the steps that both have."""
    return (chunk[0, : len(old)] - old[:CHUNK]).abs().mean(-1)


# --- which heads ---


def test_the_flow_head_can():
    assert supports_rtc_inference(make_policy())


def test_the_l1_head_can_not_and_says_which_one_can(batch, caplog):
    policy = make_policy(head="l1")
    assert not supports_rtc_inference(policy)
    for needle in ("needs the flow head", "head=l1", "--policy.head=flow", "--inference.type=sync"):
        assert needle in caplog.text
    with pytest.raises(ValueError, match="needs the flow head"):
        guided(policy, batch, left_over())


# --- guidance ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_guided_chunk_starts_like_what_is_left_of_the_old_one(batch, dtype):
    policy = make_policy(dtype=dtype)
    plain = policy.predict_action_chunk(batch, noise=noise())
    chunk = guided(rolled_out(policy), batch, left_over())
    assert chunk.shape == plain.shape
    assert chunk.dtype == torch.float32
    assert chunk.isfinite().all()
    before, after = distance(plain, left_over()), distance(chunk, left_over())
    assert (after[:DELAY] < 0.2 * before[:DELAY]).all()
    assert (after < before).all()
    # Past the horizon nothing pulls; only the denoiser's attention passes something on.
    assert (chunk - plain)[:, HORIZON:].abs().mean() < 0.5 * (chunk - plain)[:, :HORIZON].abs().mean()


@pytest.mark.parametrize("schedule", list(RTCAttentionSchedule))
def test_every_schedule_of_lerobot_works(batch, schedule):
    policy = make_policy()
    plain = policy.predict_action_chunk(batch, noise=noise())
    chunk = guided(rolled_out(policy, prefix_attention_schedule=schedule), batch, left_over())
    assert (distance(chunk, left_over())[:DELAY] < 0.2 * distance(plain, left_over())[:DELAY]).all()


def test_without_an_old_chunk_it_is_the_plain_chunk(batch):
    policy = make_policy()
    plain = policy.predict_action_chunk(batch, noise=noise())
    rolled_out(policy)
    assert torch.equal(guided(policy, batch, None), plain)
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise()), plain)


def test_an_unknown_delay_counts_as_none(batch):
    policy = rolled_out(make_policy())
    found = policy.predict_action_chunk(batch, noise=noise(), prev_chunk_left_over=left_over())
    assert torch.equal(found, guided(policy, batch, left_over(), inference_delay=0))


def test_the_horizon_of_a_call_replaces_the_configured_one(batch):
    policy = rolled_out(make_policy())
    other = rolled_out(make_policy(), execution_horizon=4)
    expected = guided(other, batch, left_over())
    assert torch.equal(guided(policy, batch, left_over(), execution_horizon=4), expected)
    assert not torch.equal(guided(policy, batch, left_over()), expected)


@pytest.mark.parametrize("chunk_size", [4, CHUNK])
def test_an_old_chunk_may_be_longer_than_the_chunk(batch, chunk_size):
    """LeRobot pads what is left to the execution horizon, which knows nothing of the policy's chunk size."""
    policy = rolled_out(make_policy(chunk_size=chunk_size, n_action_steps=2), execution_horizon=12)
    old, start = left_over(12), noise()[:, :chunk_size]
    options = {"noise": start, "inference_delay": DELAY}
    chunk = policy.predict_action_chunk(batch, prev_chunk_left_over=old, **options)
    plain = policy.predict_action_chunk(batch, prev_chunk_left_over=None, **options)
    assert chunk.shape == (1, chunk_size, ACTION_DIM)
    assert (chunk[0] - old[:chunk_size]).abs()[:DELAY].mean() < 0.2 * (plain[0] - old[:chunk_size]).abs()[:DELAY].mean()


def test_guidance_leaves_the_old_chunk_and_the_weights_alone(batch):
    policy, old = rolled_out(make_policy()), left_over()
    chunk = guided(policy, batch, old)
    assert not chunk.requires_grad
    assert torch.equal(old, left_over())
    assert all(p.grad is None for p in policy.parameters())
    with torch.no_grad():
        assert torch.equal(guided(policy, batch, old), chunk)
    policy.train()
    policy(preprocessed(policy.config))[0].backward()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_bfloat16_backbone_is_no_obstacle(tmp_path, dtype):
    policy = released_policy(write_all(tmp_path), head="flow", backbone_dtype="bfloat16", dtype=dtype)
    open_gates(policy)
    assert next(policy.model.backbones()["vggt"].parameters()).dtype == torch.bfloat16
    scene = {k: v[:1] for k, v in preprocessed(policy.config).items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        plain = guided(rolled_out(policy), scene, None)
        chunk = guided(policy, scene, left_over())
    assert (distance(chunk, left_over())[:DELAY] < 0.2 * distance(plain, left_over())[:DELAY]).all()


# --- how it is switched ---


@dataclass
class Command:
    """Stands for any of LeRobot's commands."""

    policy: PreTrainedConfig


def test_settings_come_as_json_from_the_command_line(batch):
    arguments = ["--policy.type=atlasvla", "--policy.device=cpu", '--policy.rtc_config={"execution_horizon": 5}']
    settings = draccus.parse(Command, args=arguments).policy.rtc_config
    assert settings == {"execution_horizon": 5}
    policy = make_policy(rtc_config=settings)
    assert isinstance(policy.rtc_processor, RTCProcessor)
    assert policy.rtc_processor.rtc_config == RTCConfig(execution_horizon=5)
    torch.testing.assert_close(
        guided(policy, batch, left_over()), guided(rolled_out(make_policy(), execution_horizon=5), batch, left_over())
    )


def test_a_policy_saved_after_a_rollout_loads_with_its_settings(batch, tmp_path):
    policy = rolled_out(make_policy(), prefix_attention_schedule=RTCAttentionSchedule.EXP)
    policy.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["rtc_config"]
    assert written["execution_horizon"] == HORIZON
    assert written["prefix_attention_schedule"] == "EXP"
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path)
    assert loaded.rtc_processor.rtc_config == policy.config.rtc_config
    assert torch.equal(guided(loaded, batch, left_over()), guided(policy, batch, left_over()))


def test_saved_settings_can_be_changed_and_unset(batch, tmp_path):
    rolled_out(make_policy()).save_pretrained(tmp_path)
    changed = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=['--rtc_config={"execution_horizon": 2}'])
    policy = AtlasVLAPolicy.from_pretrained(tmp_path, config=changed)
    assert policy.rtc_processor.rtc_config.execution_horizon == 2
    unset = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=["--rtc_config=null"])
    policy = AtlasVLAPolicy.from_pretrained(tmp_path, config=unset)
    assert policy.rtc_processor is None
    assert policy.select_action(batch).shape == (1, ACTION_DIM)


def test_select_action_refuses_while_it_is_on(batch):
    with pytest.raises(ValueError, match="predict_action_chunk") as error:
        rolled_out(make_policy()).select_action(batch)
    for needle in ("--inference.type=rtc", "--policy.rtc_config"):
        assert needle in str(error.value)


@pytest.mark.parametrize("settings", [None, {"enabled": False}])
def test_switched_off_it_is_as_if_it_were_not_there(batch, settings):
    policy, plain = make_policy(rtc_config=settings), make_policy()
    assert torch.equal(guided(policy, batch, left_over()), plain.predict_action_chunk(batch, noise=noise()))
    actions = []
    for one in (policy, plain):
        torch.manual_seed(3)
        actions.append(one.select_action(batch))
    assert torch.equal(*actions)


def test_it_can_be_switched_off_again(batch):
    policy = rolled_out(make_policy())
    policy.config.rtc_config = None
    policy.init_rtc_processor()
    assert policy.select_action(batch).shape == (1, ACTION_DIM)


@pytest.mark.parametrize(
    ("settings", "needles"),
    [
        ({"horizon": 5}, ["horizon", "execution_horizon", "max_guidance_weight"]),
        ({"execution_horizon": "many"}, ["execution_horizon", "many"]),
        ({"max_guidance_weight": -1}, ["max_guidance_weight", "-1"]),
        ({"prefix_attention_schedule": "SOFT"}, ["prefix_attention_schedule", "SOFT"]),
    ],
)
def test_settings_that_can_not_be_read_are_refused(settings, needles):
    with pytest.raises(ValueError, match="rtc_config") as error:
        make_policy(rtc_config=settings)
    for needle in ("--policy.rtc_config", *needles):
        assert needle in str(error.value)


@pytest.mark.parametrize("shape", [(HORIZON, ACTION_DIM), (1, HORIZON, ACTION_DIM), (2, CHUNK, ACTION_DIM)])
def test_the_rest_of_one_robots_chunk_does_not_lead_three(shape):
    policy = rolled_out(make_policy())
    three = {k: v for k, v in preprocessed(policy.config).items() if isinstance(v, torch.Tensor)}
    with pytest.raises(ValueError, match=rf"rest of {2 if shape[0] == 2 else 1} chunk\(s\), and the batch is of 3 env"):
        policy.predict_action_chunk(three, prev_chunk_left_over=torch.ones(shape), inference_delay=DELAY)
    old = torch.stack([left_over(), -left_over(), left_over() / 2])
    chunk = policy.predict_action_chunk(three, prev_chunk_left_over=old, inference_delay=DELAY)
    for robot in range(3):
        away = (chunk[robot, :DELAY] - old[:, :DELAY]).abs().mean((1, 2))
        assert away.argmin() == robot
