"""The fused optimizer step: asked for through the parameter groups, and no other step than the plain one."""

import copy

import torch
from torch.profiler import ProfilerActivity, profile

from lerobot_atlasvla import AtlasVLAPolicy

FUSED = "aten::_fused_adamw_"


def stepped(policy: AtlasVLAPolicy, *, fused: bool) -> set[str]:
    """Change a policy with five steps of LeRobot's AdamW along growing gradients; the operators of the last one."""
    groups = [dict(group) for group in policy.get_optim_params()]
    if not fused:
        for group in groups:
            del group["fused"]
    optimizer = policy.config.get_optimizer_preset().build(groups)
    operators: set[str] = set()
    for _ in range(5):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            optimizer.step()
        operators = {event.key for event in seen.key_averages()}
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.grad *= 1.5
    return operators


def test_lerobots_optimizer_takes_one_fused_step_to_the_same_weights(policy, batch):
    policy.train()
    policy(batch)[0].backward()
    plain = copy.deepcopy(policy)
    start = copy.deepcopy(policy)
    for one, other in zip(plain.parameters(), policy.parameters(), strict=True):
        one.grad = None if other.grad is None else other.grad.clone()
    assert FUSED in stepped(policy, fused=True)
    assert FUSED not in stepped(plain, fused=False)
    moved = False
    for (name, one), other, before in zip(
        policy.named_parameters(), plain.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)
        moved |= not torch.equal(one, before)
    assert moved


def test_an_optimizer_without_a_fused_step_trains_all_the_same(policy, batch):
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.RMSprop(policy.get_optim_params(), lr=1e-2)
    policy(batch)[0].backward()
    optimizer.step()
    assert any(not torch.equal(one, other) for one, other in zip(before, policy.parameters(), strict=True))
