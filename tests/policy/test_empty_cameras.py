"""Cameras that data may have or not: an absent one has no tokens, and nothing else changes."""

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import IMAGE, PIXELS, WRIST, tiny_config
from tests.helpers import released

EMPTY = "observation.images.empty_camera_0"


KINDS = {"late": {}, "early": {"fusion": "early"}, "da3": {"vision": "da3", "image_size": (28, 28)}}


@pytest.fixture(params=KINDS)
def policy(request):
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(empty_cameras=1, **KINDS[request.param]))
    released.open_gates(policy)
    return policy


def test_an_empty_camera_is_a_view_of_the_policy(policy):
    assert policy.config.view_keys == (IMAGE, WRIST, EMPTY)
    assert EMPTY in policy.config.input_features


def test_absent_it_has_no_tokens_present_it_is_seen(policy):
    batch = released.preprocessed(policy.config)
    assert released.inputs_of(policy, batch).views.present == (0, 1)
    with_it = batch | {EMPTY: torch.rand(3, 3, PIXELS, PIXELS)}
    assert released.inputs_of(policy, with_it).views.present == (0, 1, 2)
    patches = policy.model.grid[0] * policy.model.grid[1] + (policy.config.fusion == "late")
    tokens = [released.prefix_of(policy, one).geometry.tokens_BSD.shape[1] for one in (batch, with_it)]
    assert tokens == [2 * patches, 3 * patches]
    difference = policy.predict_action_chunk(with_it) - policy.predict_action_chunk(batch)
    assert difference.abs().max() > 1e-5


def test_it_trains_and_reloads_without_the_camera(policy, tmp_path):
    batch = released.preprocessed(policy.config)
    policy.train()
    policy(batch)[0].backward()
    policy.save_pretrained(tmp_path)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path)
    assert loaded.config.view_keys == policy.config.view_keys
    torch.testing.assert_close(loaded.predict_action_chunk(batch), policy.predict_action_chunk(batch))


def test_other_cameras_are_still_missed(policy):
    batch = released.preprocessed(policy.config)
    del batch[WRIST]
    with pytest.raises(ValueError, match="wrist_image' is missing"):
        policy.predict_action_chunk(batch)


def test_the_place_of_an_absent_view_stays_free():
    """A policy whose first view is absent must not take the second for it."""
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(empty_cameras=1, views=(EMPTY, IMAGE)))
    released.open_gates(policy)
    batch = released.preprocessed(policy.config)
    assert released.inputs_of(policy, batch).views.present == (1,)
    before = policy.predict_action_chunk(batch)
    with torch.no_grad():
        policy.model.fusion.geometry_projector.view_embed[:, 0] += 1
    torch.testing.assert_close(policy.predict_action_chunk(batch), before)
    with torch.no_grad():
        policy.model.fusion.geometry_projector.view_embed[:, 1] += 1
    assert (policy.predict_action_chunk(batch) - before).abs().max() > 1e-5
