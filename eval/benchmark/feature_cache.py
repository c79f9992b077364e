"""Training steps from a feature cache, for the variant ``+cache`` of ``eval.benchmark``."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lerobot_atlasvla.inputs import INDEX, prepare_views
from lerobot_atlasvla.training.feature_cache.files import CacheWriter
from lerobot_atlasvla.training.feature_cache.key import CacheKey
from lerobot_atlasvla.training.feature_cache.reader import FeatureCache, sample_pixels


@contextmanager
def from_cache(policy: Any, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Write the backbone's output on a batch to files, and let the policy find it there while the context lasts.

    Args:
        policy: An AtlasVLA policy with a frozen geometry backbone, without augmentation.
        batch: Preprocessed, on the policy's device.

    Returns:
        The batch with its frames' indices.
    """
    config, model = policy.config, policy.model
    size = len(batch["action"])
    batch = {**batch, INDEX: torch.arange(size, device=batch["action"].device)}
    key = CacheKey.of(
        config,
        dataset="benchmark",
        frames=size,
        weights="of this process",
        points=model.points_shape,
    )
    with tempfile.TemporaryDirectory() as folder:
        with torch.no_grad(), CacheWriter(Path(folder, "features"), key) as writer:
            views = prepare_views(config, batch, training=False)
            pixels = sample_pixels(views).flatten(1).cpu()
            writer.write(batch[INDEX].cpu().numpy(), [model.encode_views(views)], pixels)
        policy.feature_cache = FeatureCache(Path(folder, "features"), key, model)
        try:
            yield batch
        finally:
            policy.feature_cache = None
