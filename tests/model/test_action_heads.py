"""The action heads: what they learn, how a chunk is drawn, and that padding never counts."""

from functools import partial

import pytest
import torch
from lerobot.policies.common.flow_matching import euler_integrate

from lerobot_atlasvla.model.action_heads import FlowHead
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, tiny_config
from tests.helpers.released import prefix_of, preprocessed, tiny_policy


@pytest.fixture
def policy():
    return make_policy()


@pytest.fixture
def batch():
    return preprocessed(tiny_config(), "open the drawer", "stop", "go")


make_policy = partial(tiny_policy, head="flow")


def make_head() -> FlowHead:
    torch.manual_seed(0)
    head = FlowHead(16, 3, num_layers=2, num_heads=2, num_steps=10)
    for block in head.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.2)
    return head


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, CHUNK, ACTION_DIM, generator=torch.Generator().manual_seed(seed))


# --- how a chunk is drawn ---


def test_the_noise_given_is_not_changed(policy, batch):
    given = noise()
    policy.predict_action_chunk(batch, noise=given)
    assert torch.equal(given, noise())


def test_without_noise_it_is_drawn_from_torchs_generator(policy, batch):
    chunks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        chunks.append(policy.predict_action_chunk(batch))
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[0], chunks[2])
    torch.manual_seed(1)
    assert torch.equal(policy.select_action(batch), chunks[0][:, 0])


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_chunk_is_lerobots_euler_integral_of_the_velocity(batch, steps):
    policy = make_policy(flow_num_steps=steps)
    runs = {"decoder": 0, "velocity": 0}
    policy.model.decoder.register_forward_hook(lambda *_: runs.update(decoder=runs["decoder"] + 1))
    policy.model.head.proj.register_forward_hook(lambda *_: runs.update(velocity=runs["velocity"] + 1))
    chunk = policy.predict_action_chunk(batch, noise=noise())
    # The scene is read once; only the small denoiser runs again.
    assert runs == {"decoder": 1, "velocity": steps}
    with torch.no_grad():
        decoded = policy.model.decode(prefix_of(policy, batch))
        x = noise()
        for step in range(steps):
            x = x - policy.model.head.velocity(decoded, x, torch.full((3,), 1 - step / steps)) / steps
        torch.testing.assert_close(chunk, x, rtol=1e-4, atol=1e-5)
        expected = euler_integrate(lambda x, t: policy.model.head.velocity(decoded, x, t), noise(), steps)
    assert torch.equal(chunk, expected)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_perfect_velocity_leads_to_the_actions(batch, steps, monkeypatch):
    """Loss and integration agree on the sign and the direction of time."""
    policy = make_policy(flow_num_steps=steps)
    monkeypatch.setattr(
        policy.model.head, "velocity", lambda decoded, x, time: (x - batch["action"]) / time[:, None, None]
    )
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise()), batch["action"])
    assert policy(batch)[0] < 1e-6


def test_time_changes_the_velocity():
    head = make_head()
    decoded, noisy = torch.randn(2, 5, 16), torch.randn(2, 5, 3)
    velocities = [head.velocity(decoded, noisy, torch.full((2,), time)) for time in (0.0, 0.01, 0.5, 0.99, 1.0)]
    for index, one in enumerate(velocities):
        assert one.shape == (2, 5, 3)
        assert one.isfinite().all()
        for other in velocities[:index]:
            assert (one - other).abs().max() > 1e-4


def test_the_l1_head_uses_no_noise(batch):
    policy = make_policy(head="l1")
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise()), policy.predict_action_chunk(batch))


def test_under_bfloat16_a_chunk_is_float32_and_nearly_the_same(policy, batch):
    rounded = make_policy(dtype="bfloat16")
    rounded.load_state_dict(policy.state_dict())
    chunk = rounded.predict_action_chunk(batch, noise=noise())
    assert chunk.dtype == torch.float32
    assert 0 < (chunk - policy.predict_action_chunk(batch, noise=noise())).abs().max() < 0.05


# --- the loss ---


def test_the_loss_is_the_squared_error_of_the_velocity():
    head = make_head()
    decoded, actions, start = torch.randn(2, 5, 16), torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    time = torch.tensor([0.25, 0.75])
    valid = torch.ones(2, 5, dtype=torch.bool)
    found = head.loss(decoded, actions, valid, start, time)
    for index, t in enumerate(time):
        noisy = t * start[index] + (1 - t) * actions[index]
        velocity = head.velocity(decoded[index : index + 1], noisy[None], time[index : index + 1])[0]
        torch.testing.assert_close(found[index], (velocity - (start[index] - actions[index])).square().mean())


@pytest.mark.parametrize("poison", [1e6, float("nan"), float("inf")])
def test_padded_actions_never_change_the_loss_or_a_gradient(policy, batch, poison):
    policy.eval()
    batch["action_is_pad"][:2, 6:] = True
    results = []
    for value in (0.0, poison):
        batch["action"][:2, 6:] = value
        torch.manual_seed(0)
        policy.zero_grad()
        loss, _ = policy(batch, reduction="none")
        loss.sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in policy.parameters()])
        assert gradients.isfinite().all()
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=0)


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_a_sample_that_is_only_padding_costs_nothing(batch, head):
    policy = make_policy(head=head)
    batch["action_is_pad"][1] = True
    loss, _ = policy(batch, reduction="none")
    assert loss[1] == 0
    assert loss[0] > 0
    assert loss[2] > 0


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_reductions_agree_and_the_log_says_which_loss(batch, head):
    policy, losses = make_policy(head=head), []
    for reduction in ("mean", "none"):
        torch.manual_seed(0)
        loss, logs = policy(batch, reduction=reduction)
        losses.append(loss)
    assert losses[1].shape == (3,)
    torch.testing.assert_close(losses[1].mean(), losses[0])
    assert logs == {f"{head}_loss": pytest.approx(losses[0].item())}
    with pytest.raises(ValueError, match="'sum'"):
        policy(batch, reduction="sum")


def test_each_step_draws_new_noise_and_times(policy, batch):
    policy.train()
    assert len({policy(batch)[0].item() for _ in range(4)}) == 4


def test_a_held_out_loss_is_the_same_until_the_next_step(policy, batch):
    policy.eval()
    assert policy(batch)[0] == policy(batch)[0]


def test_the_loss_is_decided_by_noise_and_time_given(policy, batch):
    time = torch.tensor([0.2, 0.5, 0.9])
    loss = policy(batch, noise=noise(), time=time)[0]
    assert policy(batch, noise=noise(), time=time)[0] == loss
    assert policy(batch, noise=noise(1), time=time)[0] != loss
    assert policy(batch, noise=noise(), time=time.flip(0))[0] != loss


def test_times_lie_in_the_unit_interval_and_differ_within_a_batch(policy, batch, monkeypatch):
    seen = []
    real = policy.model.head.velocity
    monkeypatch.setattr(policy.model.head, "velocity", lambda *args: seen.append(args[-1]) or real(*args))
    policy.train()
    for _ in range(50):
        policy(batch)
    times = torch.cat(seen)
    assert times.shape == (150,)
    assert 0 < times.min() < 0.2
    assert 0.9 < times.max() <= 1
    assert len(set(times.tolist())) > 140


def test_overfits_one_batch_and_draws_it_again(batch):
    policy = make_policy(views=(IMAGE,))
    policy.train()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=4e-3, weight_decay=0)
    losses = []
    torch.manual_seed(0)
    for _ in range(200):
        loss, _ = policy(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    for seed in range(2):
        error = (policy.predict_action_chunk(batch, noise=noise(seed)) - batch["action"]).abs().mean()
        assert error < 0.2 * batch["action"].abs().mean()


def test_another_scene_gives_another_chunk_from_the_same_noise(policy, batch):
    other = batch | {IMAGE: batch[IMAGE].flip(-1)}
    difference = policy.predict_action_chunk(other, noise=noise()) - policy.predict_action_chunk(batch, noise=noise())
    assert difference.abs().max() > 1e-5
