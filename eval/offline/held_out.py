"""Find the episodes of a dataset that a checkpoint was not trained on, as far as the checkpoint says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import training_dataset
from lerobot_atlasvla.training.held_out import copies_of, demonstrations, split_episodes, task_of


@dataclass(frozen=True)
class EpisodeChoice:
    """Episodes to measure on, and in words what they were to the training.

    Attributes:
        episodes: Indices, in order.
        held_out: Whether none of them was trained on; None if that is not known.
        words: For tables and reports, a phrase without a full stop.
    """

    episodes: tuple[int, ...]
    held_out: bool | None
    words: str


def choose_episodes(
    checkpoint: Path, dataset_root: Path, tasks: Sequence[Sequence[str]], asked: Sequence[int] | None, most: int
) -> EpisodeChoice:
    """Choose episodes: those asked for, else held-out ones of the trained tasks, else all, thinned out evenly.

    Args:
        checkpoint: The checkpoint's ``pretrained_model``.
        dataset_root: Folder of the dataset.
        tasks: The instructions of each episode of the dataset.
        asked: Episodes to take whatever they were to the training, or None.
        most: Take at most so many of the episodes that were not asked for.

    Raises:
        EvalError: If the checkpoint was trained on episodes that the dataset lacks.
    """
    every = range(len(tasks))
    config = training_dataset(checkpoint)
    if config is None or not _is_training_data(config, dataset_root):
        trained_on = f"training was on {config['repo_id']}" if config else "the checkpoint does not say its data"
        words = f"whether the policy was trained on them is not known: {trained_on}"
        chosen = tuple(every if asked is None else asked)
        return EpisodeChoice(chosen if asked is not None else _thinned(chosen, most), None, words)
    if lacking := [episode for episode in config.get("episodes") or () if episode >= len(tasks)]:
        raise EvalError(
            f"--dataset_root={dataset_root} has {len(tasks)} episodes, but the checkpoint {checkpoint} was trained on "
            f"its episode {lacking[0]}, so the dataset is another one now; give the one of the training."
        )
    trained = set(split_episodes(config, tasks).training)
    # The same demonstration from another camera is no new one.
    shown = set(copies_of(every, sorted(trained), demonstrations(dataset_root)))
    if asked is not None:
        counts = {"training data": len(trained.intersection(asked))}
        counts["training data from another camera"] = len(shown.intersection(asked)) - counts["training data"]
        words = [f"{count} of them are {what}" for what, count in counts.items() if count]
        return EpisodeChoice(tuple(asked), not words, " and ".join(words) or "held out from training")
    # An instruction that was never trained on is another question than a held-out episode of a known one.
    known = {task_of(tasks[episode]) for episode in trained}
    unseen = [episode for episode in every if episode not in shown and task_of(tasks[episode]) in known]
    if unseen:
        return EpisodeChoice(_thinned(unseen, most), True, "held out from training")
    words = "no episode was held out, so these are training data, which a policy may know by heart"
    return EpisodeChoice(_thinned(every, most), False, words)


def _is_training_data(config: Mapping[str, Any], dataset_root: Path) -> bool:
    folder = dataset_root.resolve()
    if config.get("root"):
        return Path(config["root"]).resolve() == folder
    # Without a root LeRobot reads from its own folder of datasets, or from the Hub's cache.
    owner_and_name = config["repo_id"].split("/")
    return folder.parts[-len(owner_and_name) :] == tuple(owner_and_name) or (
        "--".join(("datasets", *owner_and_name)) in folder.parts
    )


def _thinned(episodes: Sequence[int], most: int) -> tuple[int, ...]:
    if len(episodes) <= most:
        return tuple(episodes)
    return tuple(episodes[place * len(episodes) // most] for place in range(most))
