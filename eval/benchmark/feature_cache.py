"""Training steps from a feature cache, for the variant ``+cache`` of ``eval.benchmark``."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lerobot_atlasvla import backbones
from lerobot_atlasvla.feature_cache.files import CacheWriter
from lerobot_atlasvla.feature_cache.key import CacheKey
from lerobot_atlasvla.feature_cache.reader import INDEX, FeatureCache, sample_pixels
from lerobot_atlasvla.observations import read_views


@contextmanager
def from_cache(policy: Any, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Write VGGT's output on a batch to files, and let the policy find it there while the context lasts.

    Args:
        policy: An AtlasVLA policy with frozen VGGT, without augmentation.
        batch: Preprocessed, on the policy's device.

    Returns:
        The batch with its frames' indices.
    """
    config, model, data = policy.config, policy.model, policy.training_data
    size = len(batch["action"])
    batch = {**batch, INDEX: torch.arange(size, device=batch["action"].device)}
    key = CacheKey.of(
        config,
        model.spec,
        dataset="benchmark",
        frames=size,
        vggt="of this process",
        dtype=backbones.part_dtype(config, "vggt"),
    )
    with tempfile.TemporaryDirectory() as folder:
        with torch.no_grad(), CacheWriter(Path(folder, "features"), key) as writer:
            seen = model.encode_views(read_views(config, batch, training=False))
            pixels = sample_pixels(batch, tuple(config.view_keys)).flatten(1).cpu()
            writer.write(batch[INDEX].cpu().numpy(), [seen], pixels)
        del seen
        data.feature_cache = FeatureCache(Path(folder, "features"), key)
        try:
            yield batch
        finally:
            data.feature_cache = None
