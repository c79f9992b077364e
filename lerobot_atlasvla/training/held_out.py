"""Tell which episodes LeRobot holds out, and whether training sees the same demonstrations all the same.

``atlasvla-collect --random_cameras=K`` stores each demonstration K + 1 times, an episode each, and LeRobot splits
episodes. Copies are told by what they have in common, states and actions, so that merged, thinned out or other
people's re-rendered data are told, too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
from lerobot.utils.constants import ACTION, OBS_STATE

_EPISODE = "episode_index"
# Shares to look through for one that keeps copies together.
_SHARES = [thousandths / 1000 for thousandths in range(1, 1000)]


@dataclass(frozen=True)
class Split:
    """The episodes that ``lerobot-train`` learns from, and those it holds out."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def split_episodes(config: Mapping[str, Any], tasks: Sequence[Sequence[str]]) -> Split:
    """Return LeRobot's split of a dataset.

    LeRobot 0.6.1 (``datasets/factory.py``, ``make_train_eval_datasets``) takes ``episodes``, or all, and holds out the
    last ``ceil(n * eval_split)`` of every task, where an episode's task is the first of its instructions.

    Args:
        config: ``episodes`` and ``eval_split`` of ``train_config.json``'s ``dataset``.
        tasks: The instructions of each episode of the dataset.
    """
    by_task: dict[str, list[int]] = {}
    chosen = config.get("episodes")
    for episode in range(len(tasks)) if chosen is None else chosen:
        by_task.setdefault(task_of(tasks[episode]), []).append(episode)
    share = config.get("eval_split") or 0.0
    training: list[int] = []
    held_out: list[int] = []
    for episodes in by_task.values():
        kept = len(episodes) - math.ceil(len(episodes) * share)
        training += episodes[:kept]
        held_out += episodes[kept:]
    return Split(tuple(training), tuple(held_out))


def task_of(instructions: Sequence[str]) -> str:
    """Return the task of an episode as LeRobot's split takes it: the first of its instructions."""
    return instructions[0] if len(instructions) else ""


def demonstrations(root: Path) -> dict[int, int]:
    """Tell for each episode on disk which demonstration it shows: the number of the first episode with its motion.

    Only actions and states are read. Data without actions, such as those of ``atlasvla-collect-geometry``, and data
    that are not on disk, as with ``--dataset.streaming``, tell nothing.

    Args:
        root: Folder of a LeRobotDataset.
    """
    files = [str(file) for file in sorted((root / "data").glob("*/*.parquet"))]
    names = arrow_dataset.dataset(files).schema.names if files else []
    if not {ACTION, _EPISODE} <= set(names):
        return {}
    keys = [ACTION, *(name for name in names if name.startswith(OBS_STATE))]
    motions: dict[int, list[Any]] = {}
    for batch in arrow_dataset.dataset(files).to_batches(columns=[_EPISODE, *keys]):
        episodes = batch.column(_EPISODE).to_numpy(zero_copy_only=False)
        bounds = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), len(episodes)]
        for start, end in pairwise(bounds):
            if start < end:
                motion = motions.setdefault(int(episodes[start]), [hashlib.sha256() for _ in keys])
                for part, key in zip(motion, keys, strict=True):
                    part.update(_bytes(batch.column(key)[start:end]))
    first: dict[tuple[bytes, ...], int] = {}
    found = {episode: tuple(part.digest() for part in motions[episode]) for episode in sorted(motions)}
    return {episode: first.setdefault(motion, episode) for episode, motion in found.items()}


def _bytes(values: pa.Array) -> bytes:
    """Everything in a part of a column, the same bytes for the same values."""
    flat = values
    while not pa.types.is_primitive(flat.type):
        if not hasattr(flat, "flatten"):
            return repr(flat.to_pylist()).encode()
        flat = flat.flatten()
    return flat.to_numpy(zero_copy_only=False).tobytes()


def copies_of(episodes: Sequence[int], others: Sequence[int], demonstration: Mapping[int, int]) -> list[int]:
    """Return those of ``episodes`` whose demonstration is among ``others``, too.

    Args:
        episodes: To look at.
        others: Episodes that were trained on, for example.
        demonstration: As :func:`demonstrations` tells; an episode that is not in it is its own.
    """
    known = {demonstration.get(episode, episode) for episode in others}
    return [episode for episode in episodes if demonstration.get(episode, episode) in known]


def note_on_copies(meta: Any) -> str:
    """Return what to know before episodes of a dataset with copies are held out; empty if it has none.

    The split itself is not known to a policy, whose training starts with it.

    Args:
        meta: LeRobot's metadata of the dataset.
    """
    root = getattr(meta, "root", None)
    shows = {} if root is None else demonstrations(Path(root))
    count = len(set(shows.values()))
    if count == len(shows):
        return ""
    return (
        f"The {len(shows)} episodes of {meta.repo_id} show {count} demonstrations, some of them several times, such as "
        "from several cameras. Held-out episodes (--dataset.eval_split, --dataset.episodes) are a test only if no copy "
        "of theirs is trained on; `atlasvla-check` with the same flags says whether that is so."
    )


def leak_of(config: Mapping[str, Any], tasks: Sequence[Sequence[str]], demonstration: Mapping[int, int]) -> str:
    """Say that a split trains on copies of held-out episodes, and which share does not; empty if it does not.

    Args:
        config: As in :func:`split_episodes`.
        tasks: As in :func:`split_episodes`.
        demonstration: As :func:`demonstrations` tells.
    """
    split = split_episodes(config, tasks)
    leaked = copies_of(split.held_out, split.training, demonstration)
    if not leaked:
        return ""
    whole = [share for share in _SHARES if _keeps_together({**config, "eval_split": share}, tasks, demonstration)]
    nearest = min(whole, key=lambda share: abs(share - config["eval_split"]), default=None)
    advice = "no share keeps" if nearest is None else f"--dataset.eval_split={nearest:g} keeps"
    return (
        f"--dataset.eval_split={config['eval_split']:g} holds out {len(split.held_out)} episodes, and training sees "
        f"copies of {len(leaked)} of them, such as from another camera, so the held-out loss is too low; {advice} them "
        "together"
    )


def _keeps_together(
    config: Mapping[str, Any], tasks: Sequence[Sequence[str]], demonstration: Mapping[int, int]
) -> bool:
    split = split_episodes(config, tasks)
    return bool(split.training) and not copies_of(split.held_out, split.training, demonstration)
