"""The numbers of a dataset, read once before training: one that is not finite ruins it, whatever the normalization."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
from lerobot.utils.constants import ACTION

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.policy.checks.statistics import check_statistics, unscaled_ranges, usable_statistics

from .held_out import note_on_copies

logger = logging.getLogger(__name__)

_FRAME = ("index", "episode_index", "frame_index")


def prepare_metadata(config: AtlasVLAConfig, meta: Any) -> None:
    """Check a dataset's numbers and make its statistics usable; log what to know before training on it.

    Args:
        config: The policy's configuration, features filled in.
        meta: LeRobot's metadata of the dataset; its statistics are changed.

    Raises:
        ValueError: As :func:`check_numbers`.
        ConfigError: If the statistics can't be used, or there are none.
    """
    check_numbers(config, meta)
    if note := note_on_copies(meta):
        logger.info("%s", note)
    if not (stats := getattr(meta, "stats", None)):
        # LeRobot would train without normalization. An empty dataset, to record into, has none yet.
        if hasattr(meta, "stats") and getattr(meta, "total_frames", 0):
            check_statistics(config, {})
        return
    if warning := unscaled_ranges(config, stats):
        logger.warning("%s", warning)
    # Also for who fine-tunes: LeRobot then hands these statistics to a checkpoint's pipelines, past our maker.
    stats.update(usable_statistics(config, stats))


def check_numbers(config: AtlasVLAConfig, meta: Any) -> None:
    """Check that all states and actions of a dataset are finite as float32.

    Only these columns are read, no image: LIBERO's 273,000 frames take less than a second. Without files on disk, as
    with ``--dataset.streaming``, nothing is read; the loss of each batch is looked at anyway.

    Args:
        config: The policy's configuration.
        meta: LeRobot's metadata of the dataset.

    Raises:
        ValueError: Naming the first frame with a number that is not finite.
    """
    root = getattr(meta, "root", None)
    files = [] if root is None else [str(file) for file in sorted((Path(root) / "data").glob("*/*.parquet"))]
    if not files:
        return
    data = arrow_dataset.dataset(files)
    read = (*config.state_keys, ACTION) if config.use_state else (ACTION,)
    keys = [key for key in read if key in data.schema.names]
    columns = keys + [name for name in _FRAME if name in data.schema.names]
    for rows in data.to_batches(columns=columns):
        for key in keys:
            bad = _not_finite(rows.column(key))
            if bad is not None:
                row, dimension, value = bad
                frame = {name: rows.column(name)[row].as_py() for name in columns if name in _FRAME}
                raise ValueError(
                    f"{key} of {meta.repo_id} is not finite: {value} in dimension {dimension} of frame "
                    f"{frame.get('index')} (frame {frame.get('frame_index')} of episode {frame.get('episode_index')}). "
                    "Repair it, or leave the episode out with `lerobot-edit-dataset "
                    f"--operation.type=delete_episodes --operation.episode_indices='[{frame.get('episode_index')}]'`."
                )


def _not_finite(column: pa.Array) -> tuple[int, int, Any] | None:
    """Return row, dimension and value of the first number that is not finite as float32."""
    if column.null_count:
        return column.is_null().to_pylist().index(True), 0, None
    values = column.flatten() if hasattr(column, "flatten") else column
    if not len(column) or not (pa.types.is_floating(values.type) or values.null_count):
        return None
    numbers = values.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
    if not len(bad):
        return None
    row, dimension = divmod(int(bad[0]), max(1, len(numbers) // len(column)))
    return row, dimension, numbers[bad[0]]
