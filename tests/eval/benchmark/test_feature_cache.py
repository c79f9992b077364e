"""The benchmark's ``+cache``: VGGT is not run in its training steps, and they learn the same."""

import pytest
import torch

from eval.benchmark.feature_cache import from_cache
from eval.benchmark.policies import build, raw_batch
from eval.benchmark.settings import CACHE_NOTE
from lerobot_atlasvla.policy.checks.config import ConfigError

FROZEN = {"freeze_vggt": True}


def loss_of(policy, batch) -> torch.Tensor:
    policy.train()
    return policy(dict(batch))[0]


def test_training_steps_read_what_vggt_made_of_the_batch():
    built = build("atlasvla_tiny+cache", "cpu", "float32", None, FROZEN)
    assert CACHE_NOTE in built.notes
    policy = built.policy
    batch = built.preprocess(raw_batch(policy.config, 3))
    calls = []
    policy.model.aggregator.frame_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    computed = loss_of(policy, batch)
    assert len(calls) == 1
    with from_cache(policy, batch) as cached:
        assert len(calls) == 2
        read = loss_of(policy, cached)
        read.backward()
        assert len(calls) == 2
        with pytest.raises(ValueError, match="differ by up to"):
            loss_of(policy, cached | {"observation.images.image": 1 - cached["observation.images.image"]})
    torch.testing.assert_close(read, computed)
    loss_of(policy, batch)
    assert len(calls) == 3


def test_what_has_no_use_for_a_cache_is_not_measured_with_one():
    with pytest.raises(ConfigError, match="freeze_vggt=true"):
        build("atlasvla_tiny+cache", "cpu", "float32", None, {})
    with pytest.raises(ValueError, match=r"act has no setting for \+cache"):
        build("act+cache", "cpu", "float32", None, {})
