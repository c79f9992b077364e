"""The frozen language model in host memory: where its weights are, same features, what is refused."""

import logging

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lerobot_atlasvla.model.language import LanguageEncoder, small_qwen3
from lerobot_atlasvla.policy.checks.config import ConfigError
from tests.conftest import tiny_config
from tests.helpers.released import preprocessed, released_config, released_policy

ON_CPU = {"language_on_cpu": True}


def devices(module: torch.nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


def test_only_the_language_model_stays_when_the_policy_moves(root):
    """The meta device stands in for a GPU."""
    policy = released_policy(root, **ON_CPU)
    before = [p.clone() for p in policy.model.language.parameters()]
    policy.to("meta")
    assert devices(policy.model.language) == {"cpu"}
    for name, child in policy.model.named_children():
        if name != "language":
            assert devices(child) <= {"meta"}, name
    for one, other in zip(before, policy.model.language.parameters(), strict=True):
        assert torch.equal(one, other)
    assert devices(released_policy(root).to("meta")) == {"meta"}


def test_its_dtype_still_follows(root):
    policy = released_policy(root, **ON_CPU).to(torch.bfloat16)
    assert {p.dtype for p in policy.model.language.parameters()} == {torch.bfloat16}


def test_the_actions_are_the_same(root):
    policies = [released_policy(root, **settings) for settings in ({}, ON_CPU)]
    batch = preprocessed(policies[0].config, "open the drawer", "close it", "open the drawer")
    one, other = (policy.predict_action_chunk(dict(batch)) for policy in policies)
    assert torch.equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_reach_the_gpu(root):
    policies = [released_policy(root, **settings).to("cuda") for settings in ({}, ON_CPU)]
    batch = preprocessed(policies[0].config, "open the drawer", "close it", "open the drawer")
    there = {key: value.to("cuda") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    one, other = (policy.predict_action_chunk(dict(there)) for policy in policies)
    assert other.device.type == "cuda"
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    assert devices(policies[1].model.language) == {"cpu"}


def test_more_instructions_than_are_remembered_are_told_once(caplog):
    sizes = small_qwen3(vocab_size=50, hidden_size=16, num_layers=1, num_heads=2, max_length=32)
    mask = torch.ones(3, 2, dtype=torch.bool)
    for on_cpu, warnings in ((False, 0), (True, 1)):
        caplog.clear()
        encoder = LanguageEncoder(sizes, cache_size=2, on_cpu=on_cpu).eval().requires_grad_(False)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                encoder(torch.tensor([[1, 2], [3, 4], [5, 6]]), mask)
        assert sum("language_on_cpu=false" in text for text in caplog.messages) == warnings


@pytest.mark.parametrize("refused", [{"freeze_language": False}, {"peft_language": True}])
def test_a_language_model_that_learns_is_refused(root, refused):
    with pytest.raises(ConfigError, match=r"language_on_cpu needs a language model that does not learn.*--policy\."):
        released_config(root, **ON_CPU, **refused)


def test_one_from_scratch_is_refused():
    with pytest.raises(ConfigError, match="language_init 'random'"):
        tiny_config(**ON_CPU)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_several_processes_leave_it_alone(root, one_process):
    """DistributedDataParallel wants all weights on one kind of device; the meta device stands in for the other kind."""
    policy = released_policy(root, **ON_CPU)
    for module in policy.model.language.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, torch.nn.Parameter(parameter.to("meta"), requires_grad=False))
    DistributedDataParallel(policy, find_unused_parameters=True)
    del policy._ddp_params_and_buffers_to_ignore
    with pytest.raises(ValueError, match="same type of devices"):
        DistributedDataParallel(policy, find_unused_parameters=True)
