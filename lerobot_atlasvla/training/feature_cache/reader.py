"""The policy's side of a feature cache: rows for the frames of a batch, instead of a backbone's forward pass."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lerobot_atlasvla.model.atlasvla import AtlasVLA
from lerobot_atlasvla.model.frozen import is_frozen
from lerobot_atlasvla.model.geometry.points import PointMap
from lerobot_atlasvla.model.types import GeometryTokens, Views
from lerobot_atlasvla.weights.tensor_files import digest

from .files import PIXEL_GRID, CacheReader, read_key
from .key import FLAG, WITHOUT, CacheKey, FeatureCacheError

if TYPE_CHECKING:
    from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy

logger = logging.getLogger(__name__)

# Levels of 255 by which a pixel may differ: decoders of lossy video round in different ways.
TOLERANCE = 8


def sample_pixels(views: Views) -> Tensor:
    """Return a grid of pixels of every view as the dataset has it, (B, V, 3, grid, grid), uint8."""
    samples = []
    for image in views.cameras:
        rows, columns = (
            torch.linspace(0, side - 1, PIXEL_GRID, device=image.device).round().long() for side in image.shape[-2:]
        )
        samples.append(image[:, :, rows[:, None], columns])
    return (torch.stack(samples, dim=1).float() * 255).round().clamp(0, 255).to(torch.uint8)


class FeatureCache:
    """Features of a dataset's frames, read from disk: :meth:`encode_views` in place of the model's own.

    Args:
        folder: What ``atlasvla-cache`` wrote.
        key: What the policy and its dataset need.
        model: The network, with a frozen backbone; it runs for frames that are not in the cache.

    Raises:
        FeatureCacheError: If there is no cache, a damaged one, or one of something else.
    """

    def __init__(self, folder: str | Path, key: CacheKey, model: AtlasVLA):
        self.folder = Path(folder).expanduser()
        found = read_key(self.folder)
        differences = found.differences(key)
        if differences:
            raise FeatureCacheError(
                f"The feature cache {self.folder} does not fit ({'; '.join(differences)}). Build one with "
                f"atlasvla-cache and the flags of this lerobot-train command, in another folder ({FLAG}); or "
                f"{WITHOUT}."
            )
        self.key = key
        self._model = model
        self._reader = CacheReader(self.folder, key)
        there = int(self._reader.done.sum())
        logger.info(
            "Feature cache %s: %d of %d frames, %d copies each; the other frames are encoded.",
            self.folder,
            there,
            key.frames,
            key.copies,
        )
        if not there:
            raise FeatureCacheError(f"The feature cache {self.folder} is empty. Run atlasvla-cache to its end.")

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, CacheKey, AtlasVLA]]:
        # A copy of the policy opens the files again; copying the maps would read all of them into memory.
        return (FeatureCache, (self.folder, self.key, self._model))

    def encode_views(self, views: Views) -> GeometryTokens:
        """Return the features of a batch's frames; a random copy of each, where there are several.

        The copies are augmented, so views that are not (a held-out loss) are encoded by the model.

        Args:
            views: Of the cache's dataset.

        Returns:
            The features on the device of the images.

        Raises:
            ValueError: If the backbone is not what the cache was made with, or the frames are not those of the cache's
                dataset.
        """
        if views.augmented != (self.key.copies > 1):
            return self._model.encode_views(views)
        assert self._model.aggregator is not None  # a blind policy has no feature cache
        if not is_frozen(self._model.aggregator):
            raise ValueError(
                "The geometry backbone learns (an adapter is in it?), so what it made of the data before is of no use. "
                f"Name modules outside it with --peft.target_modules, or {WITHOUT}."
            )
        frames = self._frames(views)
        there = self._reader.done[frames].astype(bool)
        if there.all():
            return self._read(frames, views)
        computed = self._model.encode_views(views.samples(torch.from_numpy(np.flatnonzero(~there))))
        if not there.any():
            return computed
        read = self._read(frames[there], views.samples(torch.from_numpy(np.flatnonzero(there))))
        return _merged(there, read, computed)

    def _frames(self, views: Views) -> np.ndarray:
        if views.frames_B is None:
            raise FeatureCacheError(
                f"The batch has no 'index', by which the feature cache {self.folder} knows its frames; {WITHOUT}."
            )
        frames = views.frames_B.cpu().numpy()
        if frames.min() < 0 or frames.max() >= self.key.frames:
            raise FeatureCacheError(
                f"The batch has frame {frames.max()}, the feature cache {self.folder} is of a dataset with "
                f"{self.key.frames} frames ({FLAG})."
            )
        return frames

    def _read(self, frames: np.ndarray, views: Views) -> GeometryTokens:
        """Read rows that are there, after a look at the images that they were made of."""
        pixels = sample_pixels(views)
        known = self._reader.pixels(frames).to(pixels.device)
        difference_B = (pixels.int() - known.int()).abs().flatten(1).amax(dim=1)
        if (difference_B > TOLERANCE).any():
            wrong = int(frames[int(difference_B.argmax())])
            raise FeatureCacheError(
                f"Frame {wrong} does not look as it did when the feature cache {self.folder} was built: its pixels "
                f"differ by up to {int(difference_B.max())} of 255. The cache is of another dataset, or images are "
                f"changed before the policy gets them (--dataset.image_transforms.enable must be false). Build it "
                f"again, or {WITHOUT}."
            )
        copies = np.zeros(len(frames), dtype=np.int64)
        if self.key.copies > 1:
            copies = torch.randint(self.key.copies, (len(frames),)).numpy()
        return self._reader.features(frames, copies, pixels.device)


def cache_key(policy: "AtlasVLAPolicy", meta: Any) -> CacheKey:
    """Return what a policy's cache of the dataset with LeRobot's metadata ``meta`` depends on."""
    part = policy.config.geometry_backbone
    backbone = policy.model.backbones()[part]
    heads = getattr(backbone, "point_heads", None)
    scales = None
    if policy.model.points_shape is not None and heads is not None:
        scales = f"{heads.frame} {digest({name: buffer.cpu() for name, buffer in heads.named_buffers()})}"
    return CacheKey.of(
        policy.config,
        dataset=meta.repo_id,
        frames=meta.total_frames,
        weights=policy.backbone_record.fingerprint(part, backbone),
        points=policy.model.points_shape,
        scales=scales,
    )


def open_cache(policy: "AtlasVLAPolicy") -> FeatureCache | None:
    """Open a policy's feature cache, if one is set and there is a dataset; the weights must be in place.

    Raises:
        FeatureCacheError: As :class:`FeatureCache`.
    """
    folder, meta = policy.config.feature_cache, policy.action_chunks.meta
    return FeatureCache(folder, cache_key(policy, meta), policy.model) if folder and meta is not None else None


def _merged(first: np.ndarray, one: GeometryTokens, other: GeometryTokens) -> GeometryTokens:
    """Samples of two origins in their old order: ``one`` has those where ``first`` is true."""
    order = np.argsort(np.concatenate((np.flatnonzero(first), np.flatnonzero(~first))))
    places = torch.from_numpy(order)

    def merge(some: Sequence[Tensor], rest: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(pair)[places.to(pair[0].device)] for pair in zip(some, rest, strict=True)]

    points = None
    if one.points is not None and other.points is not None:
        points = PointMap(*merge(one.points, other.points))
    return GeometryTokens(tuple(merge(one.layers, other.layers)), one.present, points)
