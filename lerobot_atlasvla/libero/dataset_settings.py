"""Settings that all commands share which simulate LIBERO and fill a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.libero.tasks import SPATIAL, SUITE_TASKS
from lerobot_atlasvla.utils.paths import pattern_in


class CollectionError(Exception):
    """Collecting cannot start or go on; the message says why and what to change."""


@dataclass
class DatasetConfig:
    """Settings of every command that fills a dataset attempt by attempt."""

    # Folder of the dataset. It must not exist yet, or hold a dataset that this command made with the same settings.
    root: Path
    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded.
    repo_id: str = "local/atlasvla_libero_spatial"
    # LIBERO suite.
    suite: str = SPATIAL
    # Tasks, for example '[0, 3]'. All of the suite if not given.
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

    suites = tuple(SUITE_TASKS)
    """Suites that the command can do."""

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        if self.suite not in self.suites:
            raise CollectionError(self._unknown_suite())
        unknown = [task for task in self.task_ids or [] if not 0 <= task < SUITE_TASKS[self.suite]]
        if unknown or self.task_ids == []:
            raise CollectionError(
                f"--task_ids={self.task_ids} must name tasks from 0 to {SUITE_TASKS[self.suite] - 1} of {self.suite}"
                + (f"; not among them: {', '.join(map(str, unknown))}." if unknown else ".")
            )
        if not self.root.name and not self.root.is_absolute():
            raise CollectionError(f"--root={str(self.root)!r} must name a folder.")
        if problem := pattern_in(self.root, "--root"):
            raise CollectionError(problem)
        for name, minimum in self._minima().items():
            value = getattr(self, name)
            if not value >= minimum:
                raise CollectionError(f"--{name}={value} must be at least {minimum:g}.")

    def _minima(self) -> dict[str, float]:
        """Return the smallest value of each number that has one."""
        one = ("episodes_per_task", "image_size", "workers", "save_every", "max_failures")
        return {"seed": 0.0} | dict.fromkeys(one, 1.0)

    def _unknown_suite(self) -> str:
        return f"--suite={self.suite} is no suite of LIBERO; allowed: {', '.join(self.suites)}."

    @property
    def tasks(self) -> list[int]:
        """Return the tasks, in the order in which they are written."""
        return sorted(set(self.task_ids)) if self.task_ids is not None else list(range(SUITE_TASKS[self.suite]))

    def job(self, task_id: int, attempt: int) -> Any:
        """Return the attempt number ``attempt`` of a task under these settings."""
        raise NotImplementedError

    def fixed_settings(self) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; tasks and counts may grow from run to run."""
        return {name: getattr(self, name) for name in ("suite", "seed", "image_size", "repo_id")}

    def record_notes(self) -> dict[str, Any]:
        """Return what else the dataset's record says about its making (JSON types)."""
        return {}
