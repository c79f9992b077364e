"""Settings that all commands share which simulate LIBERO and fill a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.libero.tasks import SPATIAL, SUITE_TASKS
from lerobot_atlasvla.utils.setting_checks import check_at_least, check_at_most, check_dataset_root

LARGEST_IMAGE = 2048
"""Height and width that an image may have, pixels: the largest that a policy takes."""
MOST_WORKERS = 512
"""Processes that may simulate; each takes about half a gigabyte."""

type TaskKey = tuple[str, int]
"""Suite and number of a task."""


class CollectionError(Exception):
    """Collecting cannot start or go on; the message says why and what to change."""


@dataclass
class DatasetConfig:
    """Settings of every command that fills a dataset attempt by attempt."""

    # Folder of the dataset. It must not exist yet, or hold a dataset that this command made with the same settings.
    root: Path
    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded. local/atlasvla_ and the suite, or
    # local/atlasvla_libero for several suites, if not given.
    repo_id: str | None = None
    # LIBERO suite, or several, separated by commas.
    suite: str = SPATIAL
    # Tasks of every suite, for example '[0, 3]'. All if not given.
    task_ids: list[int] | None = None
    # Episodes to keep per task.
    episodes_per_task: int = 50
    # Seed of all that is random, at least 0.
    seed: int = 0
    # Height and width of all cameras, pixels.
    image_size: int = 256
    # Processes that simulate. The data do not depend on it.
    workers: int = 2
    # Episodes written at a time, one file each time. A killed run loses at most these.
    save_every: int = 5
    # Stop when a task fails this many times in a row.
    max_failures: int = 20

    offered_suites = tuple(SUITE_TASKS)
    """Suites that the message about an unknown one names."""

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        if set(self.suites) - SUITE_TASKS.keys() or len(set(self.suites)) < len(self.suites):
            raise CollectionError(
                f"--suite={self.suite} must name suites of LIBERO, separated by commas and none twice; allowed: "
                f"{', '.join(self.offered_suites)}."
            )
        for suite in self.suites:
            unknown = [task for task in self.task_ids or [] if not 0 <= task < SUITE_TASKS[suite]]
            if unknown or self.task_ids == []:
                raise CollectionError(
                    f"--task_ids={self.task_ids} must name tasks from 0 to {SUITE_TASKS[suite] - 1} of {suite}"
                    + (f"; not among them: {', '.join(map(str, unknown))}." if unknown else ".")
                )
        check_dataset_root(CollectionError, self)
        check_at_least(CollectionError, self, seed=0, episodes_per_task=1, save_every=1, max_failures=1)
        check_at_least(CollectionError, self, image_size=1, workers=1)
        check_at_most(CollectionError, self, image_size=LARGEST_IMAGE, workers=MOST_WORKERS)

    @property
    def suites(self) -> list[str]:
        """Return the names of the suites."""
        return [name.strip() for name in self.suite.split(",")]

    @property
    def tasks(self) -> list[TaskKey]:
        """Return the tasks, in the order in which they are written."""
        ids = None if self.task_ids is None else sorted(set(self.task_ids))
        return [(suite, task_id) for suite in self.suites for task_id in (ids or range(SUITE_TASKS[suite]))]

    @property
    def dataset_name(self) -> str:
        """Return the name of the dataset, the one given or the suite's."""
        return self.repo_id or f"local/atlasvla_{self.suites[0] if len(self.suites) == 1 else 'libero'}"

    def job(self, key: TaskKey, attempt: int) -> Any:
        """Return the attempt number ``attempt`` of a task under these settings."""
        raise NotImplementedError

    def fixed_settings(self, suites: Sequence[str]) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; suites, tasks and counts may grow.

        Args:
            suites: Those of the dataset, which decide about what was not given.
        """
        return {"seed": self.seed, "image_size": self.image_size, "repo_id": self.dataset_name}

    def record_notes(self) -> dict[str, Any]:
        """Return what else the dataset's record says about its making (JSON types)."""
        return {}


def shared[T](values: Iterable[T]) -> T | None:
    """Return the value that all have, or None if they differ."""
    first, *others = values
    return first if all(other == first for other in others) else None
