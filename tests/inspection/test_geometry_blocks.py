"""Blocks as noise and blocks removed: what acts meanwhile, and that every weight is as it was afterward."""

import copy

import pytest
import torch
from torch import nn

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.inspection.geometry_blocks import blocks_as_noise, blocks_removed
from tests.conftest import tiny_config
from tests.helpers import released

CHANGES = {"noise": lambda policy: blocks_as_noise(policy, seed=3), "removed": blocks_removed}


class Through(nn.Module):
    """A block that is not there."""

    def forward(self, x, rope=None, mask=None):
        return x


def blocks_of(policy):
    return nn.ModuleList([policy.model.aggregator.frame_blocks, policy.model.aggregator.global_blocks])


def weights_of(policy):
    return {name: value.detach().clone() for name, value in policy.state_dict().items()}


def assert_same(policy, before):
    after = policy.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_of_da3_the_blocks_that_know_of_views_are_changed(change):
    policy = released.tiny_policy(vision="da3", image_size=(28, 28))
    batch = released.preprocessed(policy.config)
    plain, before = policy.predict_action_chunk(batch), weights_of(policy)
    with change(policy):
        changed = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
        assert not torch.equal(policy.predict_action_chunk(batch), plain)
    assert {".".join(name.split(".")[:4]) for name in changed} == {f"model.aggregator.blocks.{i}" for i in (4, 5)}
    assert_same(policy, before)


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_removed_blocks_hand_on_their_input(fusion):
    policy = released.tiny_policy(fusion=fusion)
    without = copy.deepcopy(policy)
    for blocks in blocks_of(without):
        for index in range(len(blocks)):
            blocks[index] = Through()
        # The aggregator asks its first frame block for the dtype of the tokens.
        blocks[0].register_parameter("dtype", nn.Parameter(torch.zeros(1)))
    batch = released.preprocessed(policy.config)
    plain, before = policy.predict_action_chunk(batch), weights_of(policy)
    with blocks_removed(policy):
        found = policy.predict_action_chunk(batch)
    torch.testing.assert_close(found, without.predict_action_chunk(batch), rtol=0, atol=0)
    assert not torch.equal(found, plain)
    assert_same(policy, before)


def test_noise_has_the_spread_of_the_weights_and_nothing_else_changes():
    policy = released.tiny_policy()
    before = weights_of(policy)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        with blocks_as_noise(policy, seed=3):
            noisy = weights_of(policy)
        with blocks_as_noise(policy, seed=3):
            again = weights_of(policy)
        with blocks_as_noise(policy, seed=4):
            other = weights_of(policy)
        assert torch.equal(torch.get_rng_state(), state)
    changed = {name for name, value in noisy.items() if not torch.equal(value, before[name])}
    inside = [f"model.aggregator.{kind}_blocks." for kind in ("frame", "global")]
    assert changed == {name for name, value in before.items() if value.ndim >= 2 and name.startswith(tuple(inside))}
    assert len(changed) == 2 * 2 * 4
    for name in changed:
        assert noisy[name].std().item() == pytest.approx(before[name].std().item(), rel=0.1)
        # Not the old matrix with something added.
        both = torch.stack((noisy[name].flatten(), before[name].flatten()))
        assert abs(torch.corrcoef(both)[0, 1]) < 0.15
        assert torch.equal(noisy[name], again[name])
        assert not torch.equal(noisy[name], other[name])
    assert_same(policy, before)


@pytest.mark.parametrize("change", CHANGES)
def test_an_error_leaves_the_weights_as_they_were(change):
    policy = released.tiny_policy()
    before = weights_of(policy)

    def fail():
        assert any(not torch.equal(policy.state_dict()[name], value) for name, value in before.items())
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), CHANGES[change](policy):
        fail()
    assert_same(policy, before)


@pytest.mark.parametrize("change", CHANGES)
def test_frozen_blocks_in_half_precision(change, tmp_path):
    policy = released.released_policy(released.write_all(tmp_path), backbone_dtype="bfloat16")
    released.open_gates(policy)
    blocks = blocks_of(policy)
    assert {(weight.dtype, weight.requires_grad) for weight in blocks.parameters()} == {(torch.bfloat16, False)}
    batch = released.preprocessed(policy.config)
    plain, before = policy.predict_action_chunk(batch), weights_of(policy)
    with CHANGES[change](policy):
        assert not torch.equal(policy.predict_action_chunk(batch), plain)
    torch.testing.assert_close(policy.predict_action_chunk(batch), plain, rtol=0, atol=0)
    assert_same(policy, before)
    assert {(weight.dtype, weight.requires_grad) for weight in blocks.parameters()} == {(torch.bfloat16, False)}


@pytest.mark.parametrize("change", CHANGES)
def test_a_compiled_policy_obeys(change):
    """The graphs are compiled before the change and are not compiled again."""
    plain, compiled = released.tiny_policy(), released.tiny_policy()
    graphs = []
    torch._dynamo.reset()
    compiled.model.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    batch = released.preprocessed(plain.config)
    compiled.predict_action_chunk(batch)
    count = len(graphs)
    assert count
    with CHANGES[change](plain), CHANGES[change](compiled):
        torch.testing.assert_close(compiled.predict_action_chunk(batch), plain.predict_action_chunk(batch))
    torch.testing.assert_close(compiled.predict_action_chunk(batch), plain.predict_action_chunk(batch))
    assert len(graphs) == count
    torch._dynamo.reset()


@pytest.mark.parametrize("change", CHANGES)
def test_blocks_with_an_adapter_inside(change, tmp_path):
    pytest.importorskip("peft")
    policy = released.released_policy(released.write_all(tmp_path))
    released.open_gates(policy)
    batch = released.preprocessed(policy.config)
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})
    wrapped.eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    plain, before = wrapped.predict_action_chunk(batch), weights_of(wrapped)
    with CHANGES[change](wrapped):
        changed = {name for name, value in before.items() if not torch.equal(wrapped.state_dict()[name], value)}
        assert not torch.equal(wrapped.predict_action_chunk(batch), plain)
    assert any("lora_" in name for name in changed) == (change == "noise")
    torch.testing.assert_close(wrapped.predict_action_chunk(batch), plain, rtol=0, atol=0)
    assert_same(wrapped, before)


def test_what_cannot_be_changed_is_refused():
    class Other(nn.Module):
        name = "act"

    for change in CHANGES.values():
        with pytest.raises(ValueError, match=r"type atlasvla has geometry blocks; this one is of type act\."):
            change(Other())
    policy = released.tiny_policy()
    policy.model.aggregator.frame_blocks[1] = Through()
    with pytest.raises(ValueError, match="two layer scales to zero; Through has 0"):
        blocks_removed(policy)
    policy.model.aggregator.frame_blocks[1].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), False)
    with pytest.raises(ValueError, match=r"weights of type torch\.int8"):
        blocks_as_noise(policy, 0)


@pytest.mark.parametrize(
    ("settings", "why"), [({"views": ("none",)}, "reads no image"), ({"vggt_blocks": "removed"}, "vggt_blocks=removed")]
)
@pytest.mark.parametrize("change", [blocks_removed, lambda policy: blocks_as_noise(policy, 0)])
def test_a_policy_without_blocks_has_none_to_change(settings, why, change):
    policy = AtlasVLAPolicy(tiny_config(**settings))
    changed = None
    with pytest.raises(ValueError, match=f"no geometry blocks: it .*{why}"):
        changed = change(policy)
    assert changed is None
