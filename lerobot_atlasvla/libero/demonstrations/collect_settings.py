"""Settings of ``atlasvla-collect``, and what is refused before any simulator starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.libero.demonstrations.episode import Job
from lerobot_atlasvla.libero.experts.scripted import SUITES, known_tasks, moves_objects
from lerobot_atlasvla.libero.patches.displacement import check_displace_cm
from lerobot_atlasvla.libero.tasks import SPATIAL, SUITE_MAX_STEPS, SUITE_TASKS
from lerobot_atlasvla.utils.paths import pattern_in

SETTINGS_BEFORE = {"displace_cm": 0.0, "recovery_share": 0.0}
"""Values of settings in datasets made before they existed."""


type TaskKey = tuple[str, int]
"""Suite and number of a task."""


class CollectionError(Exception):
    """Collecting cannot start or go on; the message says why and what to change."""


@dataclass
class CollectConfig:
    """Settings of ``atlasvla-collect``. Running the same command again continues where a killed run stopped."""

    # Folder of the dataset. It must not exist yet, or hold a dataset that this command made with the same settings.
    root: Path
    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded. local/atlasvla_ and the suite, or
    # local/atlasvla_libero for several suites, if not given.
    repo_id: str | None = None
    # LIBERO suite, or several, separated by commas: libero_spatial, libero_object, libero_goal, libero_10. Tasks that
    # the scripted expert does not know are skipped and counted.
    suite: str = SPATIAL
    # Tasks of every suite to demonstrate, for example '[0, 3]'. All if not given.
    task_ids: list[int] | None = None
    # Successful demonstrations to keep per task. Failed attempts are dropped and counted.
    episodes_per_task: int = 50
    # Seed of placements and noise, at least 0. They are random placements, never LIBERO's fixed evaluation states.
    seed: int = 0
    # Height and width of both cameras, pixels. The published data have 256.
    image_size: int = 256
    # Noise on the executed action, 1 the tuned amount and 0 none. What is stored is the action without noise.
    noise: float = 1.0
    # Displace all loose objects, and the fixtures that carry some, by one random vector of up to this many cm along x
    # and along y. 0 is LIBERO's own placement, which a policy can know by heart.
    displace_cm: float = 0.0
    # Steps to record after the first success, so that the release of the bowl is in the data.
    extra_steps: int = 10
    # Steps after which an attempt has failed. LeRobot's limit of the suite (280, 280, 300, 520) if not given.
    max_steps: int | None = None
    # Processes that simulate. The data do not depend on it.
    workers: int = 2
    # Episodes written at a time, one file each time. A killed run loses at most these.
    save_every: int = 5
    # Stop when a task fails this many times in a row.
    max_failures: int = 20
    # Share of attempts, 0 to 1, that start just after a mishap (the bowl missed, lost or pushed) and show the way back.
    # The mishap itself is not recorded. Tasks that do not start at a bowl's rim have none.
    recovery_share: float = 0.25

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        unknown_suites = [suite for suite in self.suites if suite not in SUITE_TASKS]
        if unknown_suites or len(set(self.suites)) < len(self.suites):
            raise CollectionError(
                f"--suite={self.suite} must name LIBERO suites, separated by commas and none twice; allowed: "
                f"{', '.join(SUITES)}."
            )
        for suite in self.suites:
            unknown = [task for task in self.task_ids or [] if not 0 <= task < SUITE_TASKS[suite]]
            if unknown or self.task_ids == []:
                raise CollectionError(
                    f"--task_ids={self.task_ids} must name tasks from 0 to {SUITE_TASKS[suite] - 1} of {suite}"
                    + (f"; not among them: {', '.join(map(str, unknown))}." if unknown else ".")
                )
        if not self.tasks:
            known = "; ".join(f"{suite}: {', '.join(map(str, known_tasks(suite)))}" for suite in SUITES)
            raise CollectionError(
                f"--suite={self.suite} with --task_ids={self.task_ids} leaves no task that the scripted expert knows; "
                f"it knows {known}."
            )
        if not self.root.name and not self.root.is_absolute():
            raise CollectionError(f"--root={str(self.root)!r} must name a folder.")
        if problem := pattern_in(self.root, "--root"):
            raise CollectionError(problem)
        for name, minimum in {
            "episodes_per_task": 1,
            "seed": 0,
            "image_size": 1,
            "noise": 0,
            "extra_steps": 0,
            "max_steps": 1,
            "workers": 1,
            "save_every": 1,
            "max_failures": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise CollectionError(f"--{name}={value} must be at least {minimum}.")
        try:
            check_displace_cm(self.displace_cm, "--displace_cm")
        except ValueError as error:
            raise CollectionError(f"{error}.") from error
        fixed = [f"{task_id} of {suite}" for suite, task_id in self.tasks if not moves_objects(suite, task_id)]
        if self.displace_cm and fixed:
            raise CollectionError(
                f"--displace_cm={self.displace_cm:g} displaces loose objects, and the goal of these tasks names none: "
                f"{', '.join(fixed)}. Leave them out with --task_ids, or give --displace_cm=0."
            )
        if not 0 <= self.recovery_share <= 1:
            raise CollectionError(f"--recovery_share={self.recovery_share} must be from 0 to 1.")

    @property
    def suites(self) -> list[str]:
        """Return the names of the suites."""
        return [name.strip() for name in self.suite.split(",")]

    @property
    def tasks(self) -> list[TaskKey]:
        """Return the tasks to demonstrate, in the order in which they are written."""
        return [key for key in self._asked() if key[1] in known_tasks(key[0])]

    @property
    def skipped(self) -> list[TaskKey]:
        """Return the tasks asked for that the expert does not know."""
        return [key for key in self._asked() if key[1] not in known_tasks(key[0])]

    def _asked(self) -> list[TaskKey]:
        ids = None if self.task_ids is None else sorted(set(self.task_ids))
        return [(suite, task) for suite in self.suites for task in (ids or range(SUITE_TASKS[suite]))]

    @property
    def dataset_name(self) -> str:
        """Return the name of the dataset, the one given or the suite's."""
        return self.repo_id or f"local/atlasvla_{self.suites[0] if len(self.suites) == 1 else 'libero'}"

    def job(self, key: TaskKey, attempt: int) -> Job:
        """Return the attempt number ``attempt`` of a task under these settings."""
        suite, task_id = key
        return Job(
            suite=suite,
            task_id=task_id,
            attempt=attempt,
            seed=self.seed,
            image_size=self.image_size,
            noise=self.noise,
            displace_cm=self.displace_cm,
            extra_steps=self.extra_steps,
            max_steps=self.max_steps or SUITE_MAX_STEPS[suite],
            recovery_share=self.recovery_share,
        )

    def fixed_settings(self, suites: Sequence[str] = ()) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; suites, tasks and counts may grow.

        Args:
            suites: Those of the whole dataset, if it has others than these settings name.
        """
        limits = {SUITE_MAX_STEPS[suite] for suite in suites or self.suites}
        return {
            "seed": self.seed,
            "image_size": self.image_size,
            "noise": self.noise,
            "displace_cm": self.displace_cm,
            "extra_steps": self.extra_steps,
            # None stands for each suite's own limit.
            "max_steps": self.max_steps or (limits.pop() if len(limits) == 1 else None),
            "repo_id": self.dataset_name,
            "recovery_share": self.recovery_share,
        }
