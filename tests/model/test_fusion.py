"""Vision, geometry and language together: how many tokens, what reaches what, cameras, state, queries."""

import itertools

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.model.vision import PatchTower
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, STATE, WRIST
from tests.helpers.released import (
    SPECIAL,
    inputs_of,
    open_gates,
    prefix_of,
    preprocessed,
    released_config,
    released_policy,
    write_vggt,
)

TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"
BOTH = ["late", "early"]
ALL = list(itertools.product(("vggt", "patch", "dinov2"), BOTH))
THIRD = "observation.images.third"


def opened(policy: AtlasVLAPolicy) -> AtlasVLAPolicy:
    open_gates(policy)
    return policy


def act(policy: AtlasVLAPolicy, batch: dict) -> torch.Tensor:
    """Actions; where the head starts from noise, always from the same."""
    noise = torch.randn(len(batch[STATE]), CHUNK, ACTION_DIM, generator=torch.Generator().manual_seed(3))
    return policy.predict_action_chunk(batch, noise=noise)


def only_tensors(batch: dict) -> dict:
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def prefix(policy: AtlasVLAPolicy, batch: dict):
    with torch.no_grad():
        return prefix_of(policy, batch)


# --- how many tokens ---


@pytest.mark.parametrize(
    ("overrides", "patches"),
    [
        ({"vision": "patch", "vision_patch_size": 16}, 196),
        ({"vision": "vggt", "vggt_patch_size": 14}, 256),
        ({"vision": "dinov2"}, 256),
    ],
)
@pytest.mark.parametrize("fusion", BOTH)
def test_each_view_gives_one_token_per_patch(root, tmp_path, overrides, patches, fusion):
    vggt = write_vggt(tmp_path / "vggt14", patch_size=overrides.get("vggt_patch_size", 8))
    policy = released_policy(root, vggt_model=str(vggt), image_size=(224, 224), fusion=fusion, **overrides)
    batch = preprocessed(policy.config, "abcde", "ab")
    found = prefix(policy, batch)
    # Late fusion keeps VGGT's camera token of each view; early fusion has no such token.
    per_view = patches + (1 if fusion == "late" else 0)
    assert found.geometry.tokens_BSD.shape == (2, 2 * per_view, 32)
    assert found.geometry.mask_BS is None
    # Early fusion: every view carries the words through VGGT. The state is one token more.
    words = 5 * (1 if fusion == "late" else 2)
    assert found.context.tokens_BSD.shape == (2, words + 1, 32)
    assert found.context.mask_BS.sum(1).tolist() == [words + 1, words * 2 // 5 + 1]
    assert act(policy, batch).shape == (2, CHUNK, ACTION_DIM)


@pytest.mark.parametrize(("vision", "fusion"), ALL)
def test_images_need_not_be_square(root, vision, fusion):
    size = (28, 42) if vision == "dinov2" else (24, 40)
    policy = released_policy(root, vision=vision, fusion=fusion, image_size=size)
    found = prefix(policy, preprocessed(policy.config))
    patches = 6 if vision == "dinov2" else 15
    assert found.geometry.tokens_BSD.shape[1] == 2 * (patches + (fusion == "late"))
    assert act(policy, preprocessed(policy.config)).isfinite().all()


def test_patch_tokens_are_in_reading_order():
    tower = PatchTower(8, 16, (3, 5))
    images = torch.rand(1, 1, 3, 24, 40)
    changed = images.clone()
    changed[..., 8:16, 24:32] += 1
    differs = (tower(changed) != tower(images)).any(-1).flatten()
    assert differs.nonzero().flatten().tolist() == [1 * 5 + 3]


# --- what reaches what ---


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_every_input_reaches_the_actions(root, vision, fusion, head):
    policy = opened(released_policy(root, vision=vision, fusion=fusion, head=head))
    batch = preprocessed(policy.config)
    before = act(policy, batch)
    for key in (IMAGE, WRIST, STATE, TOKENS):
        changed = dict(batch)
        changed[key] = batch[key] + 1 if key == STATE else batch[key].flip(-1)
        assert (act(policy, changed) - before).abs().max() > 1e-5, key


@pytest.mark.parametrize(("vision", "fusion"), ALL)
def test_the_geometry_reaches_the_actions_through_the_decoder(root, vision, fusion):
    """Not only through the summary that conditions the queries."""
    policy = opened(released_policy(root, vision=vision, fusion=fusion, query_conditioning="none"))
    batch = preprocessed(policy.config)
    changed = batch | {WRIST: batch[WRIST].flip(-1)}
    assert (act(policy, changed) - act(policy, batch)).abs().max() > 1e-5


@pytest.mark.parametrize("fusion", BOTH)
def test_language_reaches_the_geometry_only_in_early_fusion(root, fusion):
    policy = released_policy(root, fusion=fusion)
    one, other = (prefix(policy, preprocessed(policy.config, task)).geometry.tokens_BSD for task in ("ab", "xy"))
    assert torch.equal(one, other) == (fusion == "late")


def test_in_late_fusion_vggt_runs_as_it_was_trained(root):
    policy = released_policy(root)
    batch = preprocessed(policy.config)
    views = torch.stack([batch[IMAGE], batch[WRIST]], dim=1)
    with torch.no_grad():
        reference = policy.model.aggregator(views, output_layers=(0, 1))
        without_registers = [torch.cat((layer[:, :, :1], layer[:, :, 5:]), dim=2) for layer in reference.layers]
        expected = policy.model.fusion.geometry_projector(without_registers, (0, 1))
    assert reference.patch_start_idx == 1 + 4
    assert torch.equal(prefix(policy, batch).geometry.tokens_BSD, expected.flatten(1, 2))


def test_early_fusion_has_no_camera_or_register_tokens(root):
    names = dict(released_policy(root, fusion="early").model.aggregator.named_parameters())
    assert not names.keys() & set(SPECIAL)
    assert names.keys() >= {"frame_blocks.0.norm1.weight", "global_blocks.1.ls2.gamma"}


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("frozen", [True, False])
def test_padding_of_the_language_changes_nothing(root, vision, fusion, frozen):
    policy = opened(released_policy(root, vision=vision, fusion=fusion, freeze_language=frozen))
    batch = preprocessed(policy.config, "open the drawer", "stop")
    padded = dict(batch)
    padded[TOKENS] = torch.nn.functional.pad(batch[TOKENS], (0, 9), value=5)
    padded[MASK] = torch.nn.functional.pad(batch[MASK], (0, 9), value=False)
    torch.testing.assert_close(act(policy, padded), act(policy, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_samples_of_a_batch_do_not_mix(root, vision, fusion, head):
    policy = opened(released_policy(root, vision=vision, fusion=fusion, head=head))
    batch = only_tensors(preprocessed(policy.config, "open the drawer", "stop", "go"))
    noise = torch.randn(3, CHUNK, ACTION_DIM)
    together = policy.predict_action_chunk(batch, noise=noise)
    for index in range(3):
        one = {key: value[index : index + 1] for key, value in batch.items()}
        alone = policy.predict_action_chunk(one, noise=noise[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vision", "fusion"), ALL)
def test_the_order_of_views_matters(root, vision, fusion):
    policy = opened(released_policy(root, vision=vision, fusion=fusion, query_conditioning="none"))
    batch = preprocessed(policy.config)
    swapped = batch | {IMAGE: batch[WRIST], WRIST: batch[IMAGE]}
    assert (act(policy, swapped) - act(policy, batch)).abs().max() > 1e-5


@pytest.mark.parametrize("fusion", BOTH)
def test_one_view_is_enough(root, fusion):
    policy = released_policy(root, fusion=fusion, views=(IMAGE,))
    batch = preprocessed(policy.config)
    assert prefix(policy, batch).geometry.tokens_BSD.shape[1] == 16 + (fusion == "late")
    policy.train()
    policy(batch)[0].backward()


# --- cameras ---


def three_cameras(root, **overrides) -> AtlasVLAConfig:
    features = released_config(root).input_features | {THIRD: PolicyFeature(FeatureType.VISUAL, (3, 32, 32))}
    return released_config(root, input_features=features, **overrides)


@pytest.mark.parametrize("views", [(WRIST,), (THIRD, IMAGE), (WRIST, THIRD, IMAGE)])
def test_views_picks_cameras_by_name_in_that_order(root, views):
    torch.manual_seed(0)
    policy = opened(AtlasVLAPolicy(three_cameras(root, views=views)))
    assert policy.config.view_keys == views
    assert set(policy.config.input_features) == {*views, STATE}
    batch = {k: v for k, v in preprocessed(released_config(root)).items() if k not in (IMAGE, WRIST)}
    images = {key: torch.rand(3, 3, 32, 32) for key in views}
    seen = inputs_of(policy, batch | images).views.images()
    assert all(torch.equal(seen[:, index], images[key]) for index, key in enumerate(views))
    assert act(policy, batch | images).shape == (3, CHUNK, ACTION_DIM)


def test_the_choice_of_views_survives_saving(root, tmp_path):
    policy = AtlasVLAPolicy(three_cameras(root, views=(THIRD, IMAGE)))
    policy.save_pretrained(tmp_path / "saved")
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert loaded.config.view_keys == (THIRD, IMAGE)
    assert set(loaded.config.input_features) == {THIRD, IMAGE, STATE}


def test_without_views_all_cameras_are_looked_through(root):
    policy = AtlasVLAPolicy(three_cameras(root))
    assert set(policy.config.view_keys) == {IMAGE, WRIST, THIRD}


def test_a_view_that_the_data_lack_is_named(root):
    with pytest.raises(ValueError, match=r"observation\.images\.top") as error:
        AtlasVLAPolicy(released_config(root, views=("observation.images.top", IMAGE)))
    for needle in ("--policy.views", IMAGE, WRIST):
        assert needle in str(error.value)


# --- state and queries ---


@pytest.mark.parametrize("fusion", BOTH)
@pytest.mark.parametrize("in_the_data", [True, False])
@pytest.mark.parametrize("conditioning", ["keypoints", "none"])
def test_without_use_state_the_state_is_neither_read_nor_needed(root, fusion, in_the_data, conditioning):
    features = released_config(root).input_features
    if not in_the_data:
        features = {key: value for key, value in features.items() if key != STATE}
    policy = opened(
        released_policy(root, fusion=fusion, use_state=False, input_features=features, query_conditioning=conditioning)
    )
    batch = preprocessed(released_config(root))
    without = {key: value for key, value in batch.items() if key != STATE}
    expected = policy.predict_action_chunk(without)
    assert torch.equal(policy.predict_action_chunk(batch | {STATE: batch[STATE] + 100}), expected)
    policy.train()
    loss, _ = policy(without)
    loss.backward()
    assert [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_there_may_be_more_or_fewer_queries_than_actions(root, tmp_path, count, head):
    policy = opened(released_policy(root, num_action_queries=count, head=head))
    assert policy.model.decoder.queries.queries.shape == (1, count, 32)
    batch = preprocessed(policy.config)
    chunk = act(policy, batch)
    assert chunk.shape == (3, CHUNK, ACTION_DIM)
    assert (chunk[:, 1:] - chunk[:, :1]).abs().amax((0, 2)).min() > 1e-5
    policy.train()
    loss, _ = policy(batch)
    loss.backward()
    assert [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None] == []
    policy.save_pretrained(tmp_path / "saved")
    assert torch.equal(act(AtlasVLAPolicy.from_pretrained(tmp_path / "saved"), batch), chunk)


def test_by_default_there_is_one_query_per_action_and_no_mixture(root):
    for count in (0, CHUNK):
        decoder = released_policy(root, num_action_queries=count).model.decoder
        assert decoder.queries.count == CHUNK
        assert decoder.mixture is None
