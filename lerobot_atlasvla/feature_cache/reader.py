"""The policy's side of a feature cache: rows for the frames of a batch, instead of VGGT's forward pass."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lerobot_atlasvla.model.tokens import GeometryTokens
from lerobot_atlasvla.observations import entry

from .files import PIXEL_GRID, CacheReader, read_key
from .key import FLAG, WITHOUT, CacheKey, FeatureCacheError

logger = logging.getLogger(__name__)

INDEX = "index"
# Levels of 255 by which a pixel may differ: decoders of lossy video round in different ways.
TOLERANCE = 8


def sample_pixels(batch: dict[str, Tensor], views: tuple[str, ...]) -> Tensor:
    """A grid of pixels of every view as the dataset has it, (B, V, 3, grid, grid), uint8.

    Raises:
        ValueError: If a view is missing.
    """
    samples = []
    for view in views:
        image = entry(batch, view)
        rows, columns = (
            torch.linspace(0, side - 1, PIXEL_GRID, device=image.device).round().long() for side in image.shape[-2:]
        )
        samples.append(image[:, :, rows[:, None], columns])
    return (torch.stack(samples, dim=1).float() * 255).round().clamp(0, 255).to(torch.uint8)


class FeatureCache:
    """What VGGT made of a dataset's frames, read from disk.

    Args:
        folder: What ``atlasvla-cache`` wrote.
        key: What the policy and its dataset need.

    Raises:
        FeatureCacheError: If there is no cache, a damaged one, or one of something else.
    """

    def __init__(self, folder: str | Path, key: CacheKey):
        self.folder = Path(folder)
        found = read_key(self.folder)
        differences = found.differences(key)
        if differences:
            raise FeatureCacheError(
                f"The feature cache {self.folder} does not fit ({'; '.join(differences)}). Build one with "
                f"atlasvla-cache and the flags of this lerobot-train command, in another folder ({FLAG}); or "
                f"{WITHOUT}."
            )
        self.key = key
        self._reader = CacheReader(self.folder, key)
        there = int(self._reader.done.sum())
        logger.info(
            "Feature cache %s: %d of %d frames, %d copies each; VGGT runs for the other frames only.",
            self.folder,
            there,
            key.frames,
            key.copies,
        )
        if not there:
            raise FeatureCacheError(f"The feature cache {self.folder} is empty. Run atlasvla-cache to its end.")

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, CacheKey]]:
        # A copy of the policy opens the files again; copying the maps would read all of them into memory.
        return (FeatureCache, (self.folder, self.key))

    def look_up(self, batch: dict[str, Tensor], see: Callable[[dict[str, Tensor]], GeometryTokens]) -> GeometryTokens:
        """What VGGT made of a batch's frames; a random copy of each, where there are several.

        Args:
            batch: Preprocessed, with the frames' ``index``.
            see: What VGGT makes of a batch; called for frames that are not in the cache, with their part of the batch.

        Returns:
            The features on the device of the batch's pictures.

        Raises:
            FeatureCacheError: If the batch has frames that are not those of the cache's dataset.
        """
        frames = entry(batch, INDEX).flatten().cpu().numpy()
        if frames.min() < 0 or frames.max() >= self.key.frames:
            raise FeatureCacheError(
                f"The batch has frame {frames.max()}, the feature cache {self.folder} is of a dataset with "
                f"{self.key.frames} frames ({FLAG})."
            )
        there = self._reader.done[frames].astype(bool)
        if there.all():
            return self._read(frames, batch)
        computed = see(_part(batch, self.key.views, ~there))
        if not there.any():
            return computed
        return _merged(there, self._read(frames[there], _part(batch, self.key.views, there)), computed)

    def _read(self, frames: np.ndarray, batch: dict[str, Tensor]) -> GeometryTokens:
        """Rows that are there, after a look at the pictures that they were made of."""
        seen_now = sample_pixels(batch, self.key.views)
        known = self._reader.pixels(frames).to(seen_now.device)
        difference_B = (seen_now.int() - known.int()).abs().flatten(1).amax(dim=1)
        if (difference_B > TOLERANCE).any():
            wrong = int(frames[int(difference_B.argmax())])
            raise FeatureCacheError(
                f"Frame {wrong} does not look as it did when the feature cache {self.folder} was built: its pixels "
                f"differ by up to {int(difference_B.max())} of 255. The cache is of another dataset, or pictures are "
                f"changed before the policy gets them (--dataset.image_transforms.enable must be false). Build it "
                f"again, or {WITHOUT}."
            )
        copies = np.zeros(len(frames), dtype=np.int64)
        if self.key.copies > 1:
            copies = torch.randint(self.key.copies, (len(frames),)).numpy()
        return self._reader.features(frames, copies, seen_now.device)


def _part(batch: dict[str, Tensor], views: tuple[str, ...], chosen: np.ndarray) -> dict[str, Tensor]:
    """The pictures of some samples."""
    pictures = {view: entry(batch, view) for view in views}
    places = torch.from_numpy(np.flatnonzero(chosen))
    return {view: picture[places.to(picture.device)] for view, picture in pictures.items()}


def _merged(first: np.ndarray, one: GeometryTokens, other: GeometryTokens) -> GeometryTokens:
    """Samples of two origins in their old order: ``one`` has those where ``first`` is true."""
    order = np.argsort(np.concatenate((np.flatnonzero(first), np.flatnonzero(~first))))
    places = torch.from_numpy(order).to(one.layers_BVPC[0].device)
    pairs = zip(one.layers_BVPC, other.layers_BVPC, strict=True)
    return GeometryTokens(tuple(torch.cat(pair)[places] for pair in pairs))
