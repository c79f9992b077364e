"""Frames of a dataset, each with its counterpart: the frame of another episode at the same relative position."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from lerobot_atlasvla.training.held_out import demonstrations


class PairedFrames:
    """Frames of some episodes, spread evenly over each, and what to replace their parts by.

    The counterpart of an episode is another episode of the whole dataset, of any task: all episodes are put into a
    random circle, and each is followed by its counterpart, the next one that is no copy of the same demonstration. The
    pairing depends only on the seed and the dataset, not on which episodes are measured. The instruction needs one of
    its own, because it must be a different text.

    Frames are read anew at each call, so that not more than one episode's are in memory.

    Args:
        dataset: A LeRobotDataset opened with all its episodes and with the time steps that the policy asks for.
        episodes: Episodes to measure on.
        frames_per_episode: Frames K of each, at the relative positions (k + 1/2) / K.
        seed: Seed of the pairing.

    Attributes:
        episodes: Episodes to measure on.

    Raises:
        ValueError: If the dataset has one episode or demonstration, an episode does not exist, or one has fewer frames
            than asked for.
    """

    def __init__(self, dataset: Any, episodes: Sequence[int], frames_per_episode: int, seed: int):
        meta = dataset.meta
        total = meta.total_episodes
        if total < 2:
            raise ValueError(f"Frames are swapped between episodes; the dataset has {total}.")
        unknown = [episode for episode in episodes if not 0 <= episode < total]
        if unknown or not episodes:
            raise ValueError(f"episodes={list(episodes)} must be one or more of the dataset's 0 .. {total - 1}.")
        self.episodes = tuple(episodes)
        self._dataset = dataset
        self._frames = frames_per_episode
        self._start: list[int] = list(meta.episodes["dataset_from_index"])
        self._end: list[int] = list(meta.episodes["dataset_to_index"])
        self._tasks: list[list[str]] = list(meta.episodes["tasks"])
        self._seed = seed
        circle = list(range(total))
        random.Random(seed).shuffle(circle)
        shows = demonstrations(Path(meta.root))
        if len(shows) == total and len(set(shows.values())) < 2:
            raise ValueError(f"episodes={list(episodes)}: all episodes of the dataset show the same demonstration.")
        self._counterpart = {
            episode: next(
                other
                for other in circle[place + 1 :] + circle[: place + 1]
                if other != episode and shows.get(other, other) != shows.get(episode, episode)
            )
            for place, episode in enumerate(circle)
        }
        self._check_lengths()

    def __len__(self) -> int:
        """Return the number of measured episodes."""
        return len(self.episodes)

    def own(self, place: int) -> dict[str, Any]:
        """Return the frames of an episode, as LeRobot's data loader hands them to the preprocessor.

        Args:
            place: Place of the episode in ``episodes``.
        """
        return self._read(self.episodes[place])

    def other(self, place: int) -> dict[str, Any]:
        """Return as many frames of its counterpart, at the same relative positions; arguments as in :meth:`own`."""
        return self._read(self._counterpart[self.episodes[place]])

    def other_instruction(self, place: int) -> str | None:
        """Return an instruction that the episode does not have, None if there is none; arguments as in :meth:`own`.

        It is that of a random episode among those with another one, so frequent instructions come up more often.
        """
        episode = self.episodes[place]
        others = [tasks[0] for tasks in self._tasks if tasks and tasks[0] not in self._tasks[episode]]
        return random.Random(f"{self._seed}/{episode}").choice(others) if others else None

    def _read(self, episode: int) -> dict[str, Any]:
        length = self._end[episode] - self._start[episode]
        # Integers: (k + 1/2) / K of the length, rounded down.
        places = [self._start[episode] + (2 * k + 1) * length // (2 * self._frames) for k in range(self._frames)]
        return default_collate([self._dataset[index] for index in places])

    def _check_lengths(self) -> None:
        read = {*self.episodes, *(self._counterpart[episode] for episode in self.episodes)}
        shortest = min(read, key=lambda episode: self._end[episode] - self._start[episode])
        length = self._end[shortest] - self._start[shortest]
        if not 1 <= self._frames <= length:
            raise ValueError(
                f"frames_per_episode={self._frames} must lie in 1 .. {length}: episode {shortest} has {length} frames."
            )
