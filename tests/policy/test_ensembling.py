"""Temporal ensembling with LeRobot's own ensembler: averages, episodes, environments, threads, what is refused."""

import copy
import logging
import threading

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.checks.config import ConfigError
from tests.conftest import ACTION_DIM, CHUNK, tiny_config
from tests.helpers.released import preprocessed, tiny_policy

ON = {"temporal_ensemble_coeff": 0.3, "n_action_steps": 1}
STEPS = CHUNK + 3


def observations(count: int = STEPS, environments: int = 2) -> list[dict]:
    return [preprocessed(tiny_config(), *["pick it up"] * environments, seed=seed) for seed in range(count)]


def averaged(chunks: list[torch.Tensor], step: int, coeff: float) -> torch.Tensor:
    """By the definition: all chunks that reach the step, the oldest first."""
    reach = [chunks[start][:, step - start] for start in range(max(0, step - CHUNK + 1), step + 1)]
    weights = torch.exp(-coeff * torch.arange(len(reach)))
    return sum(weight * action for weight, action in zip(weights, reach, strict=True)) / weights.sum()


@pytest.mark.parametrize("coeff", [0.3, 0.0, -0.5])
def test_every_action_is_the_weighted_average_of_the_chunks_that_reach_it(coeff):
    policy = tiny_policy(temporal_ensemble_coeff=coeff, n_action_steps=1)
    policy.reset()
    batches = observations()
    chunks = [policy.predict_action_chunk(dict(batch)) for batch in batches]
    # LeRobot counts up to the chunk's length, so the oldest chunk that still reaches a step has the first weight.
    for step, batch in enumerate(batches):
        action = policy.select_action(dict(batch))
        assert action.shape == (2, ACTION_DIM)
        torch.testing.assert_close(action, reference(chunks[: step + 1], coeff), rtol=1e-5, atol=1e-6)
        if step < CHUNK:
            torch.testing.assert_close(action, averaged(chunks, step, coeff), rtol=1e-4, atol=1e-5)


def reference(chunks: list[torch.Tensor], coeff: float) -> torch.Tensor:
    ensembler = ACTTemporalEnsembler(coeff, CHUNK)
    return [ensembler.update(chunk.clone()) for chunk in chunks][-1]


def test_it_is_off_by_default_and_changes_no_weight():
    assert tiny_config().temporal_ensemble_coeff is None
    off, on = tiny_policy(n_action_steps=1), tiny_policy(**ON)
    assert off.state_dict().keys() == on.state_dict().keys()
    batches = observations(2)
    for policy in (off, on):
        policy.reset()
    assert torch.equal(*(policy.select_action(dict(batches[0])) for policy in (off, on)))
    assert not torch.equal(*(policy.select_action(dict(batches[1])) for policy in (off, on)))


def test_an_episode_begins_anew_after_reset():
    policy = tiny_policy(**ON)
    batches = observations(3)
    policy.reset()
    first = [policy.select_action(dict(batch)) for batch in batches]
    assert not torch.equal(policy.select_action(dict(batches[0])), first[0])
    policy.reset()
    again = [policy.select_action(dict(batch)) for batch in batches]
    assert all(map(torch.equal, first, again))


def test_another_number_of_environments_begins_anew_with_a_warning(caplog):
    policy = tiny_policy(**ON)
    policy.reset()
    (one,) = observations(1, environments=1)
    policy.select_action(observations(1)[0])
    with caplog.at_level(logging.WARNING):
        action = policy.select_action(dict(one))
    assert "1 environments after 2" in caplog.text
    assert torch.equal(action, policy.predict_action_chunk(dict(one))[:, 0])


def test_threads_and_copies_average_for_themselves():
    policy = tiny_policy(**ON)
    policy.reset()
    batches = observations(3)
    expected = [policy.select_action(dict(batch)) for batch in batches]
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.extend(policy.select_action(dict(batch)) for batch in batches))
    thread.start()
    thread.join()
    assert all(map(torch.equal, expected, found))
    assert torch.equal(copy.deepcopy(policy).select_action(dict(batches[0])), expected[0])


def test_rollouts_in_inference_mode_and_out_of_it():
    policy = tiny_policy(**ON)
    policy.reset()
    batches = observations(3)
    with torch.inference_mode():
        policy.select_action(dict(batches[0]))
    policy.select_action(dict(batches[1]))
    with torch.inference_mode():
        assert policy.select_action(dict(batches[2])).isfinite().all()


def test_a_checkpoint_keeps_it_and_flags_set_it(tmp_path):
    tiny_policy(n_action_steps=1).save_pretrained(tmp_path)
    flags = ["--temporal_ensemble_coeff=0.01", "--n_action_steps=1"]
    config = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=flags)
    assert config.temporal_ensemble_coeff == 0.01
    policy = AtlasVLAPolicy.from_pretrained(tmp_path, config=config)
    policy.save_pretrained(tmp_path / "again")
    assert AtlasVLAPolicy.from_pretrained(tmp_path / "again").config.temporal_ensemble_coeff == 0.01


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"n_action_steps": 2}, r"n_action_steps must be 1, got 2 \(--policy\.n_action_steps=1"),
        ({"n_action_steps": CHUNK}, r"--policy\.temporal_ensemble_coeff"),
        ({"head": "flow"}, r"l1 head.*--policy\.head=l1"),
        ({"head": "flow", "rtc_config": {}}, r"--policy\.temporal_ensemble_coeff"),
        ({"rtc_config": {"execution_horizon": 4}}, r"set one of them.*--policy\.rtc_config"),
        ({"temporal_ensemble_coeff": float("nan")}, "must lie in .* got nan"),
        ({"temporal_ensemble_coeff": float("inf")}, "must lie in .* got inf"),
        ({"temporal_ensemble_coeff": -1e3}, r"must lie in .* got -1000\.0"),
        ({"temporal_ensemble_coeff": "much"}, "must be a number or null, got 'much'"),
        ({"temporal_ensemble_coeff": True}, "must be a number or null, got True"),
    ],
)
def test_what_can_not_work_is_refused_by_the_configuration(changes, part):
    with pytest.raises(ConfigError, match=part):
        tiny_config(**(ON | changes))


def test_the_smallest_weight_that_is_allowed_is_finite():
    chunk = 1000
    for coeff in (-80 / (chunk - 1), 80):
        tiny_config(**ON | {"temporal_ensemble_coeff": coeff, "chunk_size": chunk})
        ensembler = ACTTemporalEnsembler(coeff, chunk)
        assert ensembler.ensemble_weights_cumsum.isfinite().all()
