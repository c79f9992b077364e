"""What a training step draws depends on the seed and the step, and on nobody else who draws."""

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.training.step_rng import StepRng
from tests.conftest import tiny_config
from tests.helpers import released

CPU = torch.device("cpu")


def draw(randomness: StepRng, *, training: bool = True) -> torch.Tensor:
    with randomness.step(CPU, training=training):
        return torch.rand(4)


def make(seed: int = 0) -> StepRng:
    torch.manual_seed(seed)
    return StepRng()


def test_steps_differ_runs_with_one_seed_do_not():
    first, again, other = ([draw(randomness) for _ in range(3)] for randomness in (make(), make(), make(1)))
    assert torch.stack(first).unique(dim=0).shape[0] == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_others_who_draw_change_nothing_and_are_not_changed():
    expected, randomness = draw(make()), make()
    torch.rand(100)
    before = torch.get_rng_state()
    torch.testing.assert_close(draw(randomness), expected, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_held_out_loss_uses_no_step_up():
    randomness, expected = make(), draw(make())
    for _ in range(3):
        assert torch.equal(draw(randomness, training=False), expected)
    assert torch.equal(draw(randomness), expected)


def test_an_error_inside_uses_no_step_up():
    randomness, expected = make(), draw(make())
    with pytest.raises(ZeroDivisionError), randomness.step(CPU, training=True):
        _ = 1 / 0
    assert torch.equal(draw(randomness), expected)


def test_processes_that_train_together_draw_differently(monkeypatch):
    alone = draw(make())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        ranks.append(draw(make()))
    assert torch.equal(ranks[0], alone)
    assert not torch.equal(ranks[0], ranks[1])


def test_a_saved_policy_goes_on_where_it_was(tmp_path):
    policy = AtlasVLAPolicy(tiny_config(head="flow", random_shift=4, random_crop=0.2, color_jitter=0.2))
    batch = released.preprocessed(policy.config)
    policy.train()
    policy(batch)
    policy.save_pretrained(tmp_path)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path).train()
    torch.rand(7)
    losses = [(policy(batch)[0].item(), loaded(batch)[0].item()) for _ in range(2)]
    assert all(a == b for a, b in losses)
    assert losses[0] != losses[1]
