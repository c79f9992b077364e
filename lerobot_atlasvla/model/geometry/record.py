"""Describe a geometry backbone made by ``atlasvla-pretrain``, in the ``config.json`` beside its weights.

Light: imports no torch, for configurations read it.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lerobot_atlasvla.model.sizes.architecture import PATCH_EMBEDDERS, check_number

FILE = "config.json"
MODEL_TYPE = "atlasvla_geometry_backbone"
FORMAT = 1
# The frame in which points and poses are: that of the first view's camera, or the robot's base.
FRAMES = ("first_view", "base")
# Numbers per view.
_STATISTICS = {"intrinsics": 9, "log_depth": 1, "point": 3, "pose": 9}
_LARGEST_STATISTIC = 1e4
_MOST_VIEWS = 16


class RecordError(ValueError):
    """A ``config.json`` is damaged or says what can't be; the message has no full stop."""


@dataclass(frozen=True)
class HeadSizes:
    """Sizes and scales of the heads that make points of geometry tokens.

    Attributes:
        hidden_dim: Hidden width of their two MLPs.
        descriptor_dim: Width E of a cell's descriptor.
        cells_per_side: Cells per patch side.
        frame: One of :data:`FRAMES`.
        statistics: What the heads predict offsets from, a flat list of numbers per view: ``intrinsics`` (3 x 3 by rows,
            in image widths and heights), ``log_depth`` (mean, depth in m), ``point`` (mean, m), ``pose`` (mean
            translation in m, then the first two columns of the mean rotation).
    """

    hidden_dim: int
    descriptor_dim: int
    cells_per_side: int
    frame: str
    statistics: dict[str, list[list[float]]]

    @classmethod
    def of(cls, content: Any, views: int) -> Self:
        """Make the object from the dictionary that :func:`dataclasses.asdict` made of another.

        Raises:
            RecordError: For anything missing, of another kind or out of range.
        """
        entries = _mapping("heads", content)
        statistics = _mapping("heads.statistics", entries.get("statistics"))
        frame = entries.get("frame")
        if frame not in FRAMES:
            raise RecordError(f"heads.frame must be one of {', '.join(FRAMES)}, got {frame!r}")
        found = {
            name: _rows(f"heads.statistics.{name}", statistics.get(name), views, size)
            for name, size in _STATISTICS.items()
        }
        if any(not row[0] or not row[4] or row[3:4] + row[6:] != [0, 0, 0, 1] for row in found["intrinsics"]):
            raise RecordError(f"heads.statistics.intrinsics has a row that is no camera matrix: {found['intrinsics']}")
        return cls(
            **{name: _count(f"heads.{name}", entries.get(name)) for name in ("hidden_dim", "descriptor_dim")},
            cells_per_side=_count("heads.cells_per_side", entries.get("cells_per_side"), most=16),
            frame=frame,
            statistics=found,
        )


@dataclass(frozen=True)
class GeometryRecord:
    """Describes the architecture of one geometry backbone, its views, and its heads if it has any.

    Attributes:
        patch_embed: One of ``sizes.PATCH_EMBEDDERS``.
        patch_size: Pixels per patch side.
        embed_dim: Width C.
        depth: Frame/global pairs.
        num_heads: Attention heads.
        num_register_tokens: Register tokens per view.
        image_size: (H, W) in pixels.
        views: Roles of the cameras, in the order in which they must come; the first is the reference of the others.
        heads: Those that make points; None without.
    """

    patch_embed: str
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    num_register_tokens: int
    image_size: tuple[int, int]
    views: tuple[str, ...]
    heads: HeadSizes | None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read the entries of :meth:`to_json`; others are left out.

        Raises:
            RecordError: For anything missing, of another kind or out of range.
        """
        if content.get("format") != FORMAT:
            raise RecordError(f"format must be {FORMAT}, got {content.get('format')!r}")
        sizes = _mapping("architecture", content.get("architecture"))
        counts = ("patch_size", "embed_dim", "depth", "num_heads", "num_register_tokens")
        found = {name: _count(f"architecture.{name}", sizes.get(name)) for name in counts}
        if found["embed_dim"] % (4 * found["num_heads"]):
            raise RecordError(
                f"architecture.embed_dim must be a multiple of 4 x num_heads = {4 * found['num_heads']}, got "
                f"{found['embed_dim']}"
            )
        if (patch_embed := sizes.get("patch_embed")) not in PATCH_EMBEDDERS:
            raise RecordError(
                f"architecture.patch_embed must be one of {', '.join(PATCH_EMBEDDERS)}, got {patch_embed!r}"
            )
        sides = content.get("image_size")
        if not isinstance(sides, list | tuple) or len(sides) != 2:
            raise RecordError(f"image_size must be [height, width], got {sides!r}")
        height, width = (_count("image_size", side, most=2048) for side in sides)
        if height % found["patch_size"] or width % found["patch_size"]:
            raise RecordError(f"image_size must divide into patches of {found['patch_size']} pixels, got {list(sides)}")
        views = check_views(content.get("views"))
        heads = content.get("heads")
        return cls(
            patch_embed=patch_embed,
            image_size=(height, width),
            views=views,
            heads=None if heads is None else HeadSizes.of(heads, len(views)),
            **found,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entries of a ``config.json``."""
        content = asdict(self)
        views, heads, size = content.pop("views"), content.pop("heads"), content.pop("image_size")
        return {
            "model_type": MODEL_TYPE,
            "format": FORMAT,
            "architecture": content,
            "image_size": list(size),
            "views": list(views),
            "heads": heads,
        }


def check_views(value: Any) -> tuple[str, ...]:
    """Return the roles of cameras that a file names.

    Raises:
        RecordError: If they are no list of different names.
    """
    names = list(value) if isinstance(value, list | tuple) else []
    if not 0 < len(names) <= _MOST_VIEWS or not all(isinstance(name, str) and name for name in names):
        raise RecordError(f"views must be a list of 1 to {_MOST_VIEWS} names, got {value!r:.100}")
    if len(set(names)) < len(names):
        raise RecordError(f"views names a camera twice: {names}")
    return tuple(names)


def read_record(place: str | Path) -> GeometryRecord | None:
    """Read the record in a folder, or beside a weight file.

    Returns:
        None if there is no ``config.json``, or one of another kind of model.

    Raises:
        RecordError: If the file is unreadable or damaged.
    """
    name = os.path.expanduser(place)
    folder = Path(name if os.path.isdir(name) else os.path.dirname(name))
    file = folder / FILE
    # Not Path.is_file, which raises for names that no file system has.
    if not os.path.exists(name) or not os.path.isfile(file):
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{file} can't be read ({error})") from error
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        return None
    try:
        return GeometryRecord.from_json(content)
    except RecordError as error:
        raise RecordError(f"{file} is damaged: {error}") from error


def _count(name: str, value: Any, most: int = 16_384) -> int:
    try:
        return check_number(name, value, int, 1, most)
    except ValueError as error:
        raise RecordError(str(error)) from error


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{name} must be an object, got {value!r:.100}")
    return value


def _rows(name: str, value: Any, rows: int, columns: int) -> list[list[float]]:
    found = value if isinstance(value, list) else []
    flat = [number for row in found if isinstance(row, list) and len(row) == columns for number in row]
    good = all(
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and abs(number) <= _LARGEST_STATISTIC
        for number in flat
    )
    if len(found) != rows or len(flat) != rows * columns or not good:
        raise RecordError(f"{name} must be {rows} lists of {columns} numbers, got {value!r:.100}")
    return [[float(number) for number in row] for row in found]
