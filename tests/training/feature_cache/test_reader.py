"""The feature cache: what VGGT made of each frame, read back bit by bit, and never for another frame or policy."""

import copy
import json
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.commands.cache_features import build
from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.training.feature_cache.key import FeatureCacheError
from tests.conftest import IMAGE, WRIST
from tests.helpers.random_dataset import REPO_ID, write_dataset
from tests.helpers.released import released_config, write_da3, write_vggt
from tests.training.feature_cache.helpers import (
    EPISODES,
    FRAMES,
    TOTAL,
    batch_of,
    features_of,
    make_policy,
    settings,
    without_vggt,
)


@pytest.mark.parametrize("frames", [[0], [23, 0, 7, 7, 12]])
def test_the_loss_and_its_gradients_are_those_of_the_network(data, released, cache, monkeypatch, frames):
    plain = make_policy(settings(data, released, None), data)
    cached = make_policy(settings(data, released, cache), data)
    without_vggt(cached, monkeypatch)
    losses = [policy(batch_of(policy, data, frames))[0] for policy in (plain, cached)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-7)
    for loss in losses:
        loss.backward()
    gradients = dict(plain.named_parameters())
    learning = {name: parameter for name, parameter in cached.named_parameters() if parameter.grad is not None}
    assert "model.fusion.geometry_projector.projections.0.weight" in learning
    for name, parameter in learning.items():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)
    assert learning.keys() == {name for name, parameter in gradients.items() if parameter.grad is not None}


def test_the_rows_are_what_vggt_gives(data, released, cache):
    policy = make_policy(settings(data, released, cache), data)
    batch = batch_of(policy, data, [3, 20])
    views = torch.stack([batch[IMAGE], batch[WRIST]], dim=1)
    with torch.no_grad():
        expected = policy.model.encode_views(prepare_views(policy.config, batch, training=False))
        reference = policy.model.aggregator(views, policy.config.vggt_output_layers)
    found = features_of(policy, batch)
    assert len(found.layers) == 2
    for mine, other, whole in zip(found.layers, expected.layers, reference.layers, strict=True):
        torch.testing.assert_close(mine, other)
        # The camera token and the patches; four registers lie between them.
        torch.testing.assert_close(mine[:, :, 0], whole[:, :, 0])
        torch.testing.assert_close(mine[:, :, 1:], whole[:, :, 5:])


def test_da3s_rows_are_what_it_gives(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "da3", vision="da3")
    build(cfg)
    plain = make_policy(settings(data, released, None, vision="da3"), data)
    cached = make_policy(cfg, data)
    without_vggt(cached, monkeypatch)
    torch.testing.assert_close(cached(batch_of(cached, data, [3, 20]))[0], plain(batch_of(plain, data, [3, 20]))[0])
    other = {"vision": "da3", "da3_model": str(write_da3(tmp_path / "other", seed=99))}
    with pytest.raises(FeatureCacheError, match=r"does not fit \(weights: sha256:"):
        make_policy(settings(data, released, tmp_path / "da3", **other), data)


def test_a_cache_from_before_da3_is_read(data, released, cache, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(cache, earlier)
    key = json.loads((earlier / "cache.json").read_text())
    key["vggt"] = key.pop("weights")
    (earlier / "cache.json").write_text(json.dumps(key))
    policy = make_policy(settings(data, released, earlier), data)
    assert policy.feature_cache.key.weights == key["vggt"]


def test_bfloat16_features_come_back_bit_by_bit(data, released, tmp_path):
    cfg = settings(data, released, tmp_path / "half", backbone_dtype="bfloat16")
    build(cfg)
    policy = make_policy(cfg, data)
    # The batches in which they were computed.
    batch = batch_of(policy, data, [5, 6, 7, 8, 9])
    with torch.no_grad():
        expected = policy.model.encode_views(prepare_views(policy.config, batch, training=False))
    found = features_of(policy, batch)
    assert found.layers[0].dtype == torch.bfloat16
    assert all(map(torch.equal, found.layers, expected.layers))
    loss, _ = policy(batch)
    assert loss.isfinite()


def test_copies_are_different_augmentations_and_all_get_used(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "copies", random_shift=4, feature_cache_copies=3)
    build(cfg)
    policy = make_policy(cfg, data)
    batch = batch_of(policy, data, [4])
    drawn = [features_of(policy, batch).layers[0] for _ in range(60)]
    kinds = {tensor.numpy().tobytes() for tensor in drawn}
    assert len(kinds) == 3
    # A held-out loss is for the pictures as they are.
    ran = []
    embed = policy.model.aggregator.embed
    monkeypatch.setattr(policy.model.aggregator, "embed", lambda views: ran.append(views) or embed(views))
    policy.eval()
    policy(batch)
    assert len(ran) == 1
    assert torch.equal(ran[0][:, 0], batch[IMAGE])
    policy.train()
    policy(batch)
    assert len(ran) == 1


def test_frames_that_are_not_there_are_computed(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "part", episodes=[1])
    build(cfg)
    plain = make_policy(settings(data, released, None), data)
    cached = make_policy(cfg, data)
    mixed = batch_of(cached, data, [14, 3, 0, 20, 14])
    ran = []
    embed = cached.model.aggregator.embed
    monkeypatch.setattr(cached.model.aggregator, "embed", lambda views: ran.append(views) or embed(views))
    torch.testing.assert_close(cached(mixed)[0], plain(mixed)[0])
    assert [tuple(views.shape) for views in ran] == [(2, 2, 3, 32, 32)]
    assert torch.equal(ran[0][:, 1], mixed[WRIST][[1, 2]])
    cached(batch_of(cached, data, [12, 23]))
    assert len(ran) == 1
    none = batch_of(cached, data, [3, 0])
    torch.testing.assert_close(cached(none)[0], plain(none)[0])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"image_size": (24, 24)}, "image_size"),
        ({"views": (WRIST, IMAGE)}, "views"),
        ({"vggt_output_layers": (1,)}, "output_layers"),
        ({"backbone_dtype": "bfloat16"}, "dtype"),
        ({"random_shift": 2, "feature_cache_copies": 2}, "augmentation"),
    ],
)
def test_the_cache_of_another_policy_is_refused_before_training(data, released, cache, overrides, named):
    with pytest.raises(FeatureCacheError, match=rf"does not fit.*{named}.*--policy\.feature_cache"):
        make_policy(settings(data, released, cache, **overrides), data)


def test_other_weights_or_other_data_are_refused_before_training(data, released, cache, tmp_path):
    other = write_vggt(tmp_path / "vggt", seed=99)
    with pytest.raises(FeatureCacheError, match="weights: sha256:"):
        make_policy(settings(data, released, cache, vggt_model=str(other)), data)
    cfg = settings(data, released, cache)
    with pytest.raises(FeatureCacheError, match="dataset: local/test, not local/other"):
        make_policy(cfg, data, repo_id="local/other")
    with pytest.raises(FeatureCacheError, match="frames: 24, not 25"):
        make_policy(cfg, data, total_frames=25)


def test_frames_that_look_otherwise_are_refused(data, released, cache, tmp_path):
    """Same name, same number of frames, other pictures."""
    policy = make_policy(settings(data, released, cache), data)
    other = write_dataset(tmp_path / "other", episodes=EPISODES, frames=FRAMES, seed=1)
    with pytest.raises(FeatureCacheError, match=r"Frame 2 does not look as it did"):
        policy(batch_of(policy, other, [2]))
    batch = batch_of(policy, data, [2, 3])
    batch["index"] = batch["index"].flip(0)
    with pytest.raises(FeatureCacheError, match="does not look as it did"):
        policy(batch)
    batch["index"] = torch.tensor([2, TOTAL])
    with pytest.raises(FeatureCacheError, match="frame 24"):
        policy(batch)


def test_vggt_that_learns_after_all_is_refused(data, released, cache):
    policy = make_policy(settings(data, released, cache), data)
    policy.model.aggregator.requires_grad_(True)
    with pytest.raises(ValueError, match="The geometry backbone learns"):
        policy(batch_of(policy, data, [0]))


@pytest.mark.parametrize("name", ["cache.json", "features.bin", "pixels.bin", "done.bin"])
def test_a_damaged_cache_is_refused(data, released, cache, tmp_path, name):
    folder = shutil.copytree(cache, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(FeatureCacheError, match=name):
        make_policy(settings(data, released, folder), data)
    (folder / name).unlink()
    with pytest.raises(FeatureCacheError, match=f"{name}.*missing"):
        make_policy(settings(data, released, folder), data)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused(data, released, cache, tmp_path, version):
    folder = shutil.copytree(cache, tmp_path / "newer")
    content = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(content | {"format": version}))
    with pytest.raises(FeatureCacheError, match=f"format {version}"):
        make_policy(settings(data, released, folder), data)


def test_a_checkpoint_knows_nothing_of_the_cache(data, released, cache, tmp_path):
    policy = make_policy(settings(data, released, cache), data)
    policy.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["feature_cache"] is None
    assert policy.config.feature_cache == str(cache)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert loaded.config.feature_cache is None
    # For acting nobody needs the cache, wherever the policy comes from.
    config = released_config(released, feature_cache=str(tmp_path / "gone"))
    assert AtlasVLAPolicy(config).feature_cache is None


def test_a_checkpoint_trains_on_with_the_cache(data, released, cache, tmp_path, monkeypatch):
    first = make_policy(settings(data, released, cache), data)
    first.save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    config.feature_cache = str(cache)
    meta = SimpleNamespace(features={}, repo_id=REPO_ID, total_frames=TOTAL)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved", config=config, dataset_meta=meta).train()
    without_vggt(loaded, monkeypatch)
    batch = batch_of(loaded, data, [0, 1])
    assert torch.equal(loaded(batch)[0], first(batch)[0])


def test_copies_and_pickles_of_a_policy_read_the_same_files(data, released, cache, monkeypatch):
    policy = make_policy(settings(data, released, cache), data)
    batch = batch_of(policy, data, [9])
    expected = policy(batch)[0]
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        # Not a copy in memory of files that may have hundreds of gigabytes.
        assert isinstance(other.feature_cache._reader._features, np.memmap)
        without_vggt(other, monkeypatch)
        assert torch.equal(other(batch)[0], expected)
