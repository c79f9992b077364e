"""The files of a feature cache: one row per frame, found by the frame's index.

``cache.json`` says what the rows depend on. ``features.bin`` has, per frame and copy, each layer's tokens and, for
landmarks, the scene's points, as the CPU lays them out. ``pixels.bin`` has a grid of pixels of each frame's views, by
which a frame of another dataset is noticed. ``done.bin`` has one byte per frame, 1 once its row is complete. The files
are sparse: rows that are not there take no room.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lerobot_atlasvla.files.folder_lock import FolderInUseError, FolderLock
from lerobot_atlasvla.files.replacing import SCRATCH, write_text
from lerobot_atlasvla.model.geometry.points import PointMap
from lerobot_atlasvla.model.types import GeometryTokens

from .key import FLAG, FORMAT, WITHOUT, CacheKey, FeatureCacheError

KEY, FEATURES, PIXELS, DONE = "cache.json", "features.bin", "pixels.bin", "done.bin"
PIXEL_GRID = 16
"""Pixels per side that are remembered of each view."""


def pixel_bytes(key: CacheKey) -> int:
    """Return the size in bytes of one frame's remembered pixels."""
    return len(key.views) * 3 * PIXEL_GRID**2


def row_bytes(key: CacheKey) -> int:
    """Return the size in bytes of all that is kept of one frame, its mark left out."""
    return key.copies * key.copy_bytes + pixel_bytes(key)


def _sizes(key: CacheKey) -> dict[str, int]:
    """Bytes of every file of rows."""
    return {
        FEATURES: key.frames * key.copies * key.copy_bytes,
        PIXELS: key.frames * pixel_bytes(key),
        DONE: key.frames,
    }


def read_key(folder: Path) -> CacheKey:
    """Read the key of the cache in a folder.

    Raises:
        FeatureCacheError: If there is none, or one that can't be read.
    """
    file = folder / KEY
    try:
        content = json.loads(file.read_text())
        if content.get("format") != FORMAT:
            raise FeatureCacheError(
                f"{folder} is a feature cache of format {content.get('format')}, this version reads {FORMAT}. Build "
                f"another with atlasvla-cache in another folder ({FLAG})."
            )
        return CacheKey.from_json(content)
    except FileNotFoundError as error:
        raise FeatureCacheError(
            f"{folder} holds no feature cache ({KEY} is missing). Build it: atlasvla-cache with the flags of this "
            f"lerobot-train command; or {WITHOUT}."
        ) from error
    except (OSError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, FeatureCacheError):
            raise
        raise FeatureCacheError(
            f"{file} can't be read ({error}). Remove {folder} and build the cache again with atlasvla-cache."
        ) from error


def open_done(folder: Path, key: CacheKey) -> np.ndarray:
    """Map the marks of the frames that are there, (frames,), 0 or 1; they follow the file while it is being built.

    Raises:
        FeatureCacheError: If a file is missing or has another size than it must have.
    """
    for name, size in _sizes(key).items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            has = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise FeatureCacheError(
                f"{folder / name} {has}. Remove {folder} and build the cache again with atlasvla-cache."
            )
    return np.memmap(folder / DONE, dtype=np.uint8, mode="r")


def done_before(folder: Path, key: CacheKey) -> np.ndarray:
    """Return the marks of the frames that need not be computed any more, (frames,), 0 or 1; change nothing.

    Raises:
        FeatureCacheError: If the folder holds another cache, a damaged one, or other files.
    """
    if not (folder / KEY).exists():
        found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        # What a killed process, of this version or of earlier ones, may have left.
        left = {name for name in found if name.startswith(SCRATCH)} | {f"{KEY}.partial"}
        unknown = sorted(found - {FEATURES, PIXELS, DONE} - left)
        if unknown:
            raise FeatureCacheError(
                f"{folder} has other files in it ({', '.join(unknown[:3])}). Choose an empty folder ({FLAG})."
            )
        return np.zeros(key.frames, dtype=np.uint8)
    differences = read_key(folder).differences(key)
    if differences:
        raise FeatureCacheError(
            f"{folder} holds the features of something else ({'; '.join(differences)}). Choose another folder "
            f"({FLAG}), or remove this one."
        )
    return open_done(folder, key)


class CacheReader:
    """Rows of a complete or partial cache.

    Args:
        folder: The cache.
        key: What it was made of.

    Raises:
        FeatureCacheError: If a file is missing or has another size than it must have.
    """

    def __init__(self, folder: Path, key: CacheKey):
        self.key = key
        self.done = open_done(folder, key)
        shape = (key.frames, key.copies, key.copy_bytes)
        self._features = np.memmap(folder / FEATURES, dtype=np.uint8, mode="r", shape=shape)
        self._pixels = np.memmap(folder / PIXELS, dtype=np.uint8, mode="r", shape=(key.frames, pixel_bytes(key)))

    def features(self, frames: np.ndarray, copies: np.ndarray, device: torch.device) -> GeometryTokens:
        """Read the features of some frames.

        Args:
            frames: Indices of B frames that are there.
            copies: Which copy of each.
            device: Where it is wanted.
        """
        key = self.key
        rows = torch.from_numpy(self._features[frames, copies])
        if device.type == "cuda":
            rows = rows.pin_memory()
        rows = rows.to(device, non_blocking=True)
        values_BN, rest_BN = rows[:, : key.layer_bytes], rows[:, key.layer_bytes :]
        layers: tuple[Tensor, ...] = ()
        if key.output_layers:
            values_BN = values_BN.contiguous().view(key.torch_dtype)
            layers = values_BN.unflatten(1, (len(key.output_layers), *key.layer)).unbind(1)
        points = None
        if shapes := key.point_shapes:
            parts = rest_BN.contiguous().view(torch.float32).split([prod(shape) for shape in shapes], dim=1)
            points = PointMap(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))
        return GeometryTokens(layers, tuple(range(len(key.views))), points)

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Return the remembered pixels, (B, V, 3, grid, grid), uint8."""
        shape = (len(self.key.views), 3, PIXEL_GRID, PIXEL_GRID)
        return torch.from_numpy(self._pixels[frames]).unflatten(1, shape)


class CacheWriter:
    """Adds rows; a context manager. A row counts once its ``done`` byte is set, which comes last.

    Args:
        folder: Created if it does not exist. One that holds a cache of the same key is continued.
        key: What the rows depend on.

    Raises:
        FeatureCacheError: If the folder holds another cache or other files, or another process is writing to it.
    """

    def __init__(self, folder: Path, key: CacheKey):
        self.folder, self.key = folder, key
        try:
            self._lock = FolderLock(folder, FLAG)
        except FolderInUseError as error:
            raise FeatureCacheError(str(error)) from error
        done_before(folder, key)
        if not (folder / KEY).exists():
            self._create()

    def _create(self) -> None:
        key = self.key
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in _sizes(key).items():
            with (self.folder / name).open("wb") as file:
                file.truncate(size)
        # Last: with it, the folder is a cache.
        write_text(self.folder / KEY, json.dumps(key.to_json(), indent=2) + "\n")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Not through a memory map: on a full disk, that would end the process without a word.
            self._features, self._pixels, self._done = (
                stack.enter_context((self.folder / name).open("r+b", buffering=0)).fileno()
                for name in (FEATURES, PIXELS, DONE)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        self._lock.release()

    def write(self, frames: np.ndarray, copies: list[GeometryTokens], pixels_BN: Tensor) -> None:
        """Write the rows of some frames.

        Args:
            frames: Their indices, (B,).
            copies: What the backbone made of each copy of them.
            pixels_BN: Their remembered pixels, uint8, flat.

        Raises:
            OSError: If the disk is full; the rows then do not count.
        """
        rows_BN = torch.cat([_flat(copy) for copy in copies], dim=1)
        for frame, row, pixels in zip(frames.tolist(), rows_BN.numpy(), pixels_BN.numpy(), strict=True):
            _write(self._features, row, frame * len(row))
            _write(self._pixels, pixels, frame * len(pixels))
        os.fsync(self._features)
        os.fsync(self._pixels)
        for frame in frames.tolist():
            os.pwrite(self._done, b"\x01", frame)


def _flat(geometry: GeometryTokens) -> Tensor:
    """One copy's bytes, (B, bytes)."""
    parts = [*geometry.layers, *(part.float() for part in geometry.points or ())]
    return torch.cat([part.flatten(1).contiguous().view(torch.uint8) for part in parts], dim=1).cpu()


def _write(file: int, content: np.ndarray, offset: int) -> None:
    """All of it: near the end of the disk, one call may write less."""
    rest = memoryview(np.ascontiguousarray(content))
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
