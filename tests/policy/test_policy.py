"""LeRobot's contract: keys, queue, reductions, groups, saving; and every batch that can't be read."""

import pytest
import torch
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize("key", [IMAGE, WRIST, STATE, "observation.language.tokens"])
def test_every_input_reaches_the_actions(policy, batch, key):
    before = policy.predict_action_chunk(batch)
    changed = dict(batch)
    changed[key] = batch[key].flip(-1) if key != STATE else batch[key] + 1
    assert (policy.predict_action_chunk(changed) - before).abs().max() > 1e-5


def test_language_padding_changes_nothing(policy, batch):
    tokens, mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    padded = dict(batch)
    padded["observation.language.tokens"] = torch.nn.functional.pad(tokens, (0, 9), value=5)
    padded["observation.language.attention_mask"] = torch.nn.functional.pad(mask, (0, 9), value=False)
    torch.testing.assert_close(policy.predict_action_chunk(padded), policy.predict_action_chunk(batch))


def test_samples_of_a_batch_do_not_mix(policy, batch):
    mixed = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
    mixed["observation.language.tokens"] = mixed["observation.language.tokens"].clone()
    mixed["observation.language.tokens"][1] += 1
    together = policy.predict_action_chunk(mixed)
    for index in range(3):
        alone = policy.predict_action_chunk({k: v[index : index + 1] for k, v in mixed.items()})
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-5)


def test_padded_actions_never_change_the_loss(policy, batch):
    policy.eval()
    batch["action_is_pad"][:, 6:] = True
    loss, _ = policy(batch)
    batch["action"][:, 6:] = 1e6
    torch.testing.assert_close(policy(batch)[0], loss)


def test_reductions_agree_and_logs_are_numbers(policy, batch):
    policy.eval()
    mean, logs = policy(batch)
    per_sample, _ = policy(batch, reduction="none")
    assert per_sample.shape == (3,)
    torch.testing.assert_close(per_sample.mean(), mean)
    assert all(isinstance(value, float) for value in logs.values())
    with pytest.raises(ValueError, match="'sum'"):
        policy(batch, reduction="sum")


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


def raw_observation(seed: int) -> dict:
    raw = raw_batch(seed=seed)
    return {k: raw[k] for k in (IMAGE, WRIST, STATE)} | {
        "observation.language.tokens": torch.full((3, 4), 7),
        "observation.language.attention_mask": torch.ones(3, 4, dtype=torch.bool),
    }


def test_inference_then_training(policy, batch):
    """Nothing that select_action leaves behind under inference_mode may poison a backward pass."""
    with torch.inference_mode():
        policy.select_action(batch)
    policy.train()
    policy(batch)[0].backward()


def test_the_batch_is_not_changed(policy, batch):
    before = {k: v.clone() for k, v in batch.items() if isinstance(v, torch.Tensor)}
    policy.train()
    policy(batch)
    policy.select_action(batch)
    assert all(torch.equal(batch[k], v) for k, v in before.items())


def test_bfloat16_inference_returns_float32(batch):
    torch.manual_seed(0)
    exact = AtlasVLAPolicy(tiny_config())
    rounded = AtlasVLAPolicy(tiny_config(dtype="bfloat16"))
    rounded.load_state_dict(exact.state_dict())
    action = rounded.select_action(batch)
    assert action.dtype == torch.float32
    difference = (action - exact.select_action(batch)).abs().max()
    assert 0 < difference < 0.05


def test_views_of_another_size_are_resized(policy, batch):
    batch[IMAGE] = torch.nn.functional.interpolate(batch[IMAGE], (57, 91))
    assert policy.predict_action_chunk(batch).shape == (3, CHUNK, ACTION_DIM)


def test_random_shift_is_for_training_only(batch):
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(random_shift=4))
    policy.eval()
    assert policy(batch)[0] == policy(batch)[0]
    policy.train()
    assert len({policy(batch)[0].item() for _ in range(4)}) == 4


def test_decay_groups_cover_every_parameter_once(policy):
    groups = policy.get_optim_params()
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in policy.parameters())
    assert groups[1]["weight_decay"] == 0.0
    assert all(p.ndim < 2 for p in groups[1]["params"])


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


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "truncated"])
def test_a_damaged_checkpoint_is_refused(policy, tmp_path, fault):
    policy.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.head.proj.weight"
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(Exception, match=r"(?i)incomplete|invalid|header|buffer"):
            AtlasVLAPolicy.from_pretrained(tmp_path)
        return
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        name = "model.head.other"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(1)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=name):
        AtlasVLAPolicy.from_pretrained(tmp_path)
