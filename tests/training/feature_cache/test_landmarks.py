"""The feature cache of a policy with landmarks: it holds the scene's points beside the layers, bit by bit."""

import pytest
import torch

from lerobot_atlasvla.commands.cache_features import build
from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.training.feature_cache.key import FeatureCacheError
from tests.helpers.landmark_policies import SETTINGS
from tests.helpers.released import write_with_heads
from tests.training.feature_cache.helpers import batch_of, features_of, make_policy, settings, without_vggt

DEEP = {"vggt_depth": 4}
KINDS = {kind: DEEP | SETTINGS | {"query_conditioning": kind} for kind in ("landmarks", "only_landmarks")}


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return write_with_heads(tmp_path_factory.mktemp("deep"))


@pytest.fixture(scope="module")
def caches(data, deep, tmp_path_factory):
    """Of the first kind only the second episode's frames."""
    folder = tmp_path_factory.mktemp("caches")
    return {
        kind: build(settings(data, deep, folder / kind, episodes=[1] if kind == "landmarks" else None, **chosen))
        for kind, chosen in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_losses_are_those_of_the_network(data, deep, caches, monkeypatch, kind):
    plain = make_policy(settings(data, deep, None, **KINDS[kind]), data)
    cached = make_policy(settings(data, deep, caches[kind], **KINDS[kind]), data)
    # The whole batches in which rows were computed.
    batch = batch_of(cached, data, [12, 13, 14, 15, 16] if kind == "landmarks" else [10, 11, 12, 13, 14])
    with torch.no_grad():
        expected = plain.model.encode_views(prepare_views(plain.config, batch, training=False))
    with monkeypatch.context() as patch:
        without_vggt(cached, patch)
        found = features_of(cached, batch)
        losses = [cached(batch)[0] for _ in range(2)]
    assert len(found.layers) == len(expected.layers) == (2 if kind == "landmarks" else 0)
    assert all(map(torch.equal, found.layers, expected.layers))
    assert all(map(torch.equal, found.points, expected.points))
    assert [plain(batch)[0].item() for _ in range(2)] == [loss.item() for loss in losses]


def test_points_of_frames_that_are_not_there_are_computed(data, deep, caches):
    plain = make_policy(settings(data, deep, None, **KINDS["landmarks"]), data)
    cached = make_policy(settings(data, deep, caches["landmarks"], **KINDS["landmarks"]), data)
    batch = batch_of(cached, data, [14, 3, 0, 20])
    with torch.no_grad():
        expected = plain.model.encode_views(prepare_views(plain.config, batch, training=False))
    for found, other in zip(features_of(cached, batch).points, expected.points, strict=True):
        torch.testing.assert_close(found, other)
    torch.testing.assert_close(cached(batch)[0], plain(batch)[0])


def test_a_cache_without_points_is_refused_and_the_other_way_round(data, deep, caches, tmp_path):
    bare = build(settings(data, deep, tmp_path / "bare", episodes=[1], **DEEP, views=SETTINGS["views"]))
    with pytest.raises(FeatureCacheError, match=r"does not fit .*points: None, not \(2, 16, 32\)"):
        make_policy(settings(data, deep, bare, **KINDS["landmarks"]), data)
    with pytest.raises(FeatureCacheError, match=r"does not fit .*points: \(2, 16, 32\), not None"):
        make_policy(settings(data, deep, caches["landmarks"], **DEEP, views=SETTINGS["views"]), data)
