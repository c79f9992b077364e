"""Images outside [0, 1] and numbers that are not finite are errors that name them, in training and on the robot."""

import math

import pytest
import torch
from lerobot.configs.types import NormalizationMode

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from tests.conftest import IMAGE, STATE, WRIST, dataset_stats, raw_batch, tiny_config

INF, NAN = math.inf, math.nan


def with_value(batch, key, place, value):
    """The batch with one number replaced."""
    changed = batch[key].clone()
    changed[place] = value
    return batch | {key: changed}


@pytest.mark.parametrize("change", [lambda i: i * 255, lambda i: i * 2 - 1, lambda i: i + 0.2, lambda i: i - 0.2])
@pytest.mark.parametrize("call", ["select_action", "predict_action_chunk", "forward"])
def test_images_outside_0_to_1_are_refused(policy, batch, call, change):
    batch[WRIST] = change(batch[WRIST])
    with pytest.raises(ValueError, match=rf"{WRIST} must be float RGB in \[0, 1\], got values from -?\d.* to \d"):
        getattr(policy, call)(batch)


def test_images_are_looked_at_once_per_episode(policy, batch):
    """A look at every image would cost every step; what a camera gives does not change its scale within an episode."""
    policy.predict_action_chunk(batch)
    brighter = batch | {IMAGE: batch[IMAGE] + 1}
    policy.predict_action_chunk(brighter)
    policy.reset()
    with pytest.raises(ValueError, match=IMAGE):
        policy.predict_action_chunk(brighter)


def test_rounding_errors_and_black_images_pass(policy, batch):
    policy.predict_action_chunk(batch | {IMAGE: torch.ones_like(batch[IMAGE]) + 1e-4, WRIST: batch[WRIST] * 0})


def test_images_that_the_policy_normalizes_itself_may_have_any_range(batch):
    modes = {"VISUAL": NormalizationMode.MEAN_STD, "STATE": NormalizationMode.MEAN_STD}
    AtlasVLAPolicy(tiny_config(normalization_mapping=modes)).predict_action_chunk(batch | {IMAGE: batch[IMAGE] * 4 - 2})


def test_a_camera_that_is_not_read_may_be_anything(batch):
    AtlasVLAPolicy(tiny_config(views=(IMAGE,))).predict_action_chunk(batch | {WRIST: batch[WRIST] * NAN})


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(("key", "place"), [(STATE, (1, 4)), (IMAGE, (1, 0, 3, 4)), (WRIST, (1, 2, 5, 6))])
def test_no_action_comes_of_what_is_not_finite(policy, batch, key, place, value):
    policy.predict_action_chunk(batch)  # so that the images' range has been looked at
    with pytest.raises(ValueError, match=rf"actions are not finite, because {key} is not finite in sample 1 of the"):
        policy.predict_action_chunk(with_value(batch, key, place, value))
    assert policy.select_action(batch).isfinite().all()


def test_a_state_too_large_to_compute_with_is_named(policy, batch):
    with pytest.raises(ValueError, match=r"not finite.* largest normalized value of observation\.state is .*e\+30"):
        policy.select_action(batch | {STATE: batch[STATE] * 1e30})


@pytest.mark.parametrize("head", ["l1", "flow"])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(("key", "place"), [("action", (1, 3, 2)), (STATE, (1, 2)), (IMAGE, (1, 0, 3, 2))])
def test_a_loss_that_is_not_finite_names_key_and_frame(batch, head, key, place, value):
    policy = AtlasVLAPolicy(tiny_config(head=head)).train()
    policy.forward(batch)
    batch |= {"index": torch.tensor([30, 31, 32]), "episode_index": torch.tensor([2, 2, 2])}
    with pytest.raises(
        ValueError, match=rf"The loss is .*because {key} is not finite in .*frame 31 .*episode 2"
    ) as error:
        policy.forward(with_value(batch, key, place, value), reduction="none")
    assert "dimension 2" in str(error.value) or key == IMAGE


def test_without_the_frame_the_sample_is_named(policy, batch):
    with pytest.raises(ValueError, match=r"action is not finite in sample 0 of the batch: nan in dimension 6"):
        policy.forward(with_value(batch, "action", (0, 3, 6), NAN))


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_padded_actions_may_be_anything(batch, head):
    """Neither loss nor gradient sees them."""
    policy = AtlasVLAPolicy(tiny_config(head=head)).train()
    batch["action_is_pad"][:, 7:] = True
    loss, _ = policy.forward(with_value(batch, "action", (0, 8, 6), NAN))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("call", ["select_action", "forward"])
def test_weights_that_are_not_finite_are_named(policy, batch, call):
    """What a step with an infinite gradient leaves."""
    policy.model.decoder.norm.weight.data[3] = NAN
    with pytest.raises(ValueError, match=r"the weights model\.decoder\.norm\.weight are not finite"):
        getattr(policy, call)(batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.int32])
@pytest.mark.parametrize("mode", [NormalizationMode.MEAN_STD, NormalizationMode.IDENTITY])
def test_a_state_of_any_type_is_read_as_float32(policy, dtype, mode):
    """LeRobot's normalization casts its statistics to the data's type, which rounds those of integers away."""
    config = tiny_config(normalization_mapping={"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode})
    preprocess, _ = make_atlasvla_pre_post_processors(config, dataset_stats())
    raw = raw_batch()
    raw[STATE], raw["action"] = raw[STATE].mul(9).round(), raw["action"].mul(9).round()
    expected = preprocess(dict(raw))
    found = preprocess(raw | {STATE: raw[STATE].to(dtype), "action": raw["action"].to(dtype)})
    for key in (STATE, "action"):
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], expected[key])
    assert torch.equal(policy.predict_action_chunk(found), policy.predict_action_chunk(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_of_another_precision_are_read(policy, batch, dtype):
    action = policy.predict_action_chunk(batch | {IMAGE: batch[IMAGE].to(dtype)})
    torch.testing.assert_close(action, policy.predict_action_chunk(batch), atol=0.05, rtol=0)
