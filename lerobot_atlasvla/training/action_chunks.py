"""All actions of the training data in memory, so that a batch's chunks need not come through LeRobot's reader.

LeRobot 0.6.1 reads a chunk by reading the whole rows of all its steps, images included
(``datasets/dataset_reader.py``, ``_query_hf_dataset``): with chunks of 10, two cameras and frames stored as images it
decodes 22 of them for the two that are used. With the actions in memory it reads one row per sample.

Shape suffixes: N frames of the dataset, B batch, T chunk, A action.
"""

import logging
from math import isnan
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import torch
from lerobot.configs.types import FeatureType
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import NormalizerProcessorStep
from lerobot.processor.converters import create_transition
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.inputs import INDEX, entry

logger = logging.getLogger(__name__)

FLAG = "--policy.actions_in_memory"
ACTION_IS_PAD = "action_is_pad"
# Rounding of the same float32 arithmetic on another device.
TOLERANCE = 1e-4


class ActionChunks:
    """Gives the chunks that a policy learns from a batch, from the batch itself or from memory.

    Args:
        config: The policy's configuration, features filled in.
        meta: LeRobot's metadata of the dataset; ``None`` for a policy that is not made for one.
    """

    def __init__(self, config: AtlasVLAConfig, meta: Any | None):
        self.meta = meta
        self._config = config
        self._table: InMemoryActions | None = None
        self._advised = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "ActionChunks":
        # Nothing in it changes, and a copy of a policy learns from the same data.
        return self

    def of(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the chunks to learn, (B, T, A), and which of their actions come before the episode's end, (B, T).

        Raises:
            ValueError: If the batch's actions have another shape, or are not those in memory, or there are no files to
                read those from.
        """
        actions_BTA = entry(batch, ACTION)
        in_memory = self._config.actions_in_memory and self.meta is not None
        if self._config.action_dim == 1 and actions_BTA.ndim <= 2:
            # LeRobot stores a list of one number as a number; its batching step takes (B,) for one sample, (1, B).
            single = in_memory and actions_BTA.numel() == entry(batch, INDEX).numel()
            actions_BTA = actions_BTA.reshape(-1, 1) if single else actions_BTA[..., None]
            batch = batch | {ACTION: actions_BTA}
        if in_memory and actions_BTA.ndim == 2:
            if self._table is None:
                # Only now: whoever gives a policy an empty dataset, to record into, reads no batches.
                self._table = InMemoryActions.read(self._config, self.meta)
            return self._table.chunks(batch)
        expected = (self._config.chunk_size, self._config.action_dim)
        if actions_BTA.ndim != 3 or tuple(actions_BTA.shape[1:]) != expected:
            raise ValueError(
                f"{ACTION} must have shape (B, {expected[0]}, {expected[1]}), got {tuple(actions_BTA.shape)} "
                "(--policy.chunk_size; the action size comes from the dataset; single actions are enough with "
                "--policy.actions_in_memory=true, for a policy from LeRobot's make_policy with a dataset)."
            )
        self._advise()
        return actions_BTA, ~entry(batch, ACTION_IS_PAD)

    def _advise(self) -> None:
        """Say once what is faster: a checkpoint does not keep the flag, so training on from one goes without it."""
        if self._advised or self.meta is None:
            return
        self._advised = True
        cameras = sum(feature["dtype"] == "image" for feature in self.meta.features.values())
        steps = self._config.chunk_size + 1
        if cameras and not self._config.actions_in_memory:
            logger.warning(
                "LeRobot's reader decodes %d images for every sample of this dataset; with %s=true it decodes %d and "
                "training is faster. Checkpoints do not keep this flag.",
                *(cameras * steps, FLAG, cameras),
            )


class InMemoryActions:
    """Normalized actions by the index of their frame.

    Args:
        actions_NA: Normalized; rows that are not on disk are not a number.
        end_N: Per frame, the index of the first frame behind its episode.
        chunk_size: Actions T per chunk.
    """

    def __init__(self, actions_NA: Tensor, end_N: Tensor, chunk_size: int):
        self._actions_NA, self._end_N = actions_NA, end_N
        self._chunk_size = chunk_size

    @classmethod
    def read(cls, config: AtlasVLAConfig, meta: Any) -> Self:
        """Read the actions of a dataset that is on disk, all or some of its episodes.

        Args:
            config: The policy's configuration, features filled in.
            meta: LeRobot's metadata of the dataset.

        Raises:
            ValueError: If there are no data files, as with ``--dataset.streaming``.
        """
        files = [str(file) for file in sorted((Path(meta.root) / "data").glob("*/*.parquet"))]
        if not files:
            raise ValueError(
                f"{Path(meta.root) / 'data'} has no data files, so the actions of {meta.repo_id} can't be kept in "
                f"memory. Leave out --dataset.streaming, or use {FLAG}=false."
            )
        table = arrow_dataset.dataset(files).to_table(columns=[ACTION, INDEX])
        rows = table[INDEX].to_numpy().copy()  # PyTorch warns about memory that it must not write to.
        values = table[ACTION].combine_chunks()
        raw_NA = torch.full((meta.total_frames, config.action_dim), torch.nan)
        raw_NA[torch.from_numpy(rows)] = _to_tensor(values, config.action_dim)
        normalize = NormalizerProcessorStep(
            features=dict(config.output_features or {}),
            norm_map={FeatureType(kind): mode for kind, mode in config.normalization_mapping.items()},
            stats=meta.stats,
        )
        normalized: Any = normalize(create_transition(action=raw_NA))
        actions_NA = normalized[TransitionKey.ACTION]
        end_N = torch.zeros(meta.total_frames, dtype=torch.long)
        for start, end in zip(meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"], strict=True):
            end_N[start:end] = end
        return cls(actions_NA, end_N, config.chunk_size)

    def chunks(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the chunks that begin with a batch's actions, as LeRobot's reader would give them.

        Args:
            batch: Preprocessed; ``action`` (B, A), normalized, and ``index`` (B,).

        Returns:
            Actions (B, T, A), the last one repeated past the end of the episode, and whether each is before it (B, T).

        Raises:
            ValueError: If the batch's actions are not those of the table, or not all of a chunk is on disk.
        """
        first_BA, index_B = entry(batch, ACTION), entry(batch, INDEX).flatten()
        if self._actions_NA.device != first_BA.device:
            self._actions_NA, self._end_N = self._actions_NA.to(first_BA.device), self._end_N.to(first_BA.device)
        steps_BT = index_B[:, None] + torch.arange(self._chunk_size, device=index_B.device)
        end_B1 = self._end_N[index_B][:, None]
        chunks_BTA = self._actions_NA[torch.minimum(steps_BT, end_B1 - 1)]
        # One number for both questions, because on a GPU each answer has to be waited for.
        apart = ((chunks_BTA[:, 0] - first_BA).abs().max() + 0 * chunks_BTA.sum()).item()
        if isnan(apart):
            raise ValueError(
                f"The actions of frames {index_B.min().item()} to {index_B.max().item()} are not all in the dataset's "
                f"files on disk. Leave out --dataset.streaming, or use {FLAG}=false."
            )
        if apart > TOLERANCE:
            raise ValueError(
                f"The batch's actions are not those of the dataset's files, normalized by its statistics: they are up "
                f"to {apart:.3g} apart. Something changes actions on the way, or a resumed run keeps the statistics of "
                f"before the dataset was changed; use {FLAG}=false."
            )
        return chunks_BTA, steps_BT < end_B1


def _to_tensor(values: pa.Array | pa.ChunkedArray, width: int) -> Tensor:
    """A column of lists, or of numbers where the lists would have one each, (rows, width), float32."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not pa.types.is_primitive(flat.type):
        flat = flat.flatten()
    return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False), dtype=np.float32)).view(-1, width)
