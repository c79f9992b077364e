"""Settings of ``atlasvla-collect``, and what is refused before any simulator starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.libero.demonstrations.episode import Job
from lerobot_atlasvla.libero.experts.scripted import SUITES
from lerobot_atlasvla.libero.patches.displacement import check_displace_cm
from lerobot_atlasvla.libero.tasks import SPATIAL, SUITE_TASKS
from lerobot_atlasvla.utils.paths import pattern_in

SETTINGS_BEFORE = {"displace_cm": 0.0, "recovery_share": 0.0}
"""Values of settings in datasets made before they existed."""


class CollectionError(Exception):
    """Collecting cannot start or go on; the message says why and what to change."""


@dataclass
class CollectConfig:
    """Settings of ``atlasvla-collect``. Running the same command again continues where a killed run stopped."""

    # Folder of the dataset. It must not exist yet, or hold a dataset that this command made with the same settings.
    root: Path
    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded.
    repo_id: str = "local/atlasvla_libero_spatial"
    # LIBERO suite. The scripted expert knows libero_spatial only.
    suite: str = SPATIAL
    # Tasks to demonstrate, for example '[0, 3]'. All ten if not given.
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
    # Steps after which an attempt has failed. LIBERO's own limit for this suite is 280.
    max_steps: int = 280
    # Processes that simulate. The data do not depend on it.
    workers: int = 2
    # Episodes written at a time, one file each time. A killed run loses at most these.
    save_every: int = 5
    # Stop when a task fails this many times in a row.
    max_failures: int = 20
    # Share of attempts, 0 to 1, that start just after a mishap (the bowl missed, lost or pushed) and show the way back.
    # The mishap itself is not recorded.
    recovery_share: float = 0.25

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        if self.suite not in SUITES:
            raise CollectionError(
                f"--suite={self.suite} is not known to the scripted expert; allowed: {', '.join(SUITES)}."
            )
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
            if not value >= minimum:
                raise CollectionError(f"--{name}={value} must be at least {minimum}.")
        try:
            check_displace_cm(self.displace_cm, "--displace_cm")
        except ValueError as error:
            raise CollectionError(f"{error}.") from error
        if not 0 <= self.recovery_share <= 1:
            raise CollectionError(f"--recovery_share={self.recovery_share} must be from 0 to 1.")

    @property
    def tasks(self) -> list[int]:
        """Return the tasks to demonstrate, in the order in which they are written."""
        return sorted(set(self.task_ids)) if self.task_ids is not None else list(range(SUITE_TASKS[self.suite]))

    def job(self, task_id: int, attempt: int) -> Job:
        """Return the attempt number ``attempt`` of a task under these settings."""
        return Job(
            suite=self.suite,
            task_id=task_id,
            attempt=attempt,
            seed=self.seed,
            image_size=self.image_size,
            noise=self.noise,
            displace_cm=self.displace_cm,
            extra_steps=self.extra_steps,
            max_steps=self.max_steps,
            recovery_share=self.recovery_share,
        )

    def fixed_settings(self) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; tasks and counts may grow from run to run."""
        names = (
            "suite",
            "seed",
            "image_size",
            "noise",
            "displace_cm",
            "extra_steps",
            "max_steps",
            "repo_id",
            "recovery_share",
        )
        return {name: getattr(self, name) for name in names}
