"""LeRobot's contract: keys, queue, reductions, groups, saving; and every batch that can't be read."""

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, STATE, WRIST, raw_batch, tiny_config


def test_names_that_lerobot_looks_up(policy):
    from lerobot.policies.factory import get_policy_class

    assert get_policy_class("atlasvla") is AtlasVLAPolicy
    assert AtlasVLAPolicy.name == policy.config.type == "atlasvla"


def test_overfits_one_batch(policy, batch):
    policy.train()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=3e-3)
    first = policy(batch)[0].item()
    for _ in range(300):
        loss, _ = policy(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.05 * first:
            break
    predicted = policy.predict_action_chunk(batch)
    assert loss.item() < 0.1 * first
    assert (predicted - batch["action"]).abs().mean() < 0.1 * first


def test_every_parameter_learns_and_none_appears_later(policy, batch):
    names = {name for name, _ in policy.named_parameters()}
    policy.train()
    policy(batch)[0].backward()
    silent = [
        name
        for name, p in policy.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0
    ]
    assert silent == []
    assert {name for name, _ in policy.named_parameters()} == names


def test_queue_order_and_replanning():
    policy = AtlasVLAPolicy(tiny_config(n_action_steps=4))
    observations = [raw_observation(seed) for seed in range(2)]
    chunks = [policy.predict_action_chunk(observation) for observation in observations]
    for step in range(8):
        # The second observation is only looked at when the first four actions are used up.
        action = policy.select_action(observations[0] if step == 0 else observations[1])
        torch.testing.assert_close(action, chunks[step // 4][:, step % 4])
        assert action.shape == (3, ACTION_DIM)
        assert action.dtype == torch.float32
    policy.select_action(observations[0])
    policy.reset()
    torch.testing.assert_close(policy.select_action(observations[1]), chunks[1][:, 0])


def test_another_number_of_actions_skips_none():
    policy = AtlasVLAPolicy(tiny_config(n_action_steps=3))
    policy.select_action(raw_observation(0))
    policy.config.n_action_steps = 5
    chunk = policy.predict_action_chunk(raw_observation(1))
    executed = [policy.select_action(raw_observation(1)) for _ in range(7)]
    torch.testing.assert_close(torch.stack(executed[2:], dim=1), chunk[:, :5])


def raw_observation(seed: int) -> dict:
    raw = raw_batch(seed=seed)
    return {k: raw[k] for k in (IMAGE, WRIST, STATE)} | {
        "observation.language.tokens": torch.full((3, 4), 7),
        "observation.language.attention_mask": torch.ones(3, 4, dtype=torch.bool),
    }


def test_views_of_another_size_are_resized(policy, batch):
    batch[IMAGE] = torch.nn.functional.interpolate(batch[IMAGE], (57, 91))
    assert policy.predict_action_chunk(batch).shape == (3, CHUNK, ACTION_DIM)


@pytest.mark.parametrize(
    ("key", "change", "needles"),
    [
        (
            WRIST,
            None,
            ["'observation.images.wrist_image' is missing", IMAGE, "--rename_map", "--env.camera_name_mapping"],
        ),
        (STATE, None, ["'observation.state' is missing", "--env.obs_type=pixels_agent_pos"]),
        (IMAGE, lambda x: x[:, None], ["(B, 3, H, W)", "(3, 1, 3, 32, 32)"]),
        (IMAGE, lambda x: x[:, :1], ["(B, 3, H, W)", "(3, 1, 32, 32)"]),
        (IMAGE, lambda x: (x * 255).byte(), ["[0, 1]", "torch.uint8"]),
        (STATE, lambda x: x[:, :7], ["(B, 8)", "(3, 7)"]),
        (STATE, lambda x: x[0], ["(B, 8)", "(8,)"]),
        ("action", lambda x: x[..., :6], ["(B, 10, 7)", "(3, 10, 6)", "--policy.chunk_size"]),
        ("action", lambda x: x[:, :9], ["(B, 10, 7)", "(3, 9, 7)"]),
        ("action", lambda x: x[:, 0], ["(B, 10, 7)", "(3, 7)"]),
        ("action_is_pad", None, ["'action_is_pad' is missing"]),
    ],
)
def test_unreadable_batches_are_refused(policy, batch, key, change, needles):
    if change is None:
        del batch[key]
    else:
        batch[key] = change(batch[key])
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the needles are the match)
        policy(batch)
    for needle in needles:
        assert needle in str(error.value)


def test_saved_policy_is_the_same_policy(policy, batch, tmp_path):
    policy.save_pretrained(tmp_path)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path)
    assert not loaded.training
    assert {k for k, _ in loaded.named_parameters()} == {k for k, _ in policy.named_parameters()}
    torch.testing.assert_close(loaded.predict_action_chunk(batch), policy.predict_action_chunk(batch), rtol=0, atol=0)
