"""Settings of ``atlasvla-collect``, and what is refused before any simulator starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lerobot_atlasvla.libero.cameras.features import CONVENTION
from lerobot_atlasvla.libero.cameras.ranges import RandomCameraConfig
from lerobot_atlasvla.libero.dataset_settings import CollectionError, TaskKey, shared
from lerobot_atlasvla.libero.demonstrations.episode import Job
from lerobot_atlasvla.libero.experts.mishaps import MAX_STEPS as MISHAP_STEPS
from lerobot_atlasvla.libero.experts.scripted import SUITES, known_by_suite, known_tasks, moves_objects
from lerobot_atlasvla.libero.patches.displacement import check_displace_cm
from lerobot_atlasvla.libero.tasks import LONGEST_EPISODE, SETTLE_STEPS, SPATIAL, SUITE_MAX_STEPS
from lerobot_atlasvla.utils.setting_checks import check_at_least, check_in_range

SETTINGS_BEFORE = {
    "displace_cm": 0.0,
    "recovery_share": 0.0,
    "arm_start_rad": 0.0,
    "random_cameras": None,
    "store_geometry": False,
}
"""Values of settings in datasets made before they existed."""
ARM_START_LIMIT_RAD = 1
"""Twice LIBERO-Plus's largest."""


@dataclass
class CollectConfig(RandomCameraConfig):
    """Settings of ``atlasvla-collect``. Running the same command again continues where a killed run stopped."""

    # LIBERO suite, or several, separated by commas: libero_spatial, libero_object, libero_goal, libero_10. Tasks that
    # the scripted expert does not know are skipped and counted.
    suite: str = SPATIAL
    # Successful demonstrations to keep per task. Failed attempts are dropped and counted.
    episodes_per_task: int = 50
    # Seed of placements, noise and cameras, at least 0. They are random placements, never LIBERO's fixed evaluation
    # states.
    seed: int = 0
    # Height and width of both cameras, pixels. The published data have 256.
    image_size: int = 256
    # Store each demonstration this many times more, as seen by a scene camera in a random pose (--azimuth to
    # --hold_out_distance say which); the wrist's images, states and actions are the same. At least 1.
    random_cameras: int | None = None
    # Noise on the executed action, 1 the tuned amount and 0 none. What is stored is the action without noise.
    noise: float = 1.0
    # Displace all loose objects, and the fixtures that carry some, by one random vector of up to this many cm along x
    # and along y. 0 is LIBERO's own placement, which a policy can know by heart.
    displace_cm: float = 0.0
    # Steps to record after the first success, so that the release of the bowl is in the data.
    extra_steps: int = 10
    # Steps after which an attempt has failed. LeRobot's limit of the suite (280, 280, 300, 520) if not given.
    max_steps: int | None = None
    # Share of attempts, 0 to 1, that start just after a mishap (the bowl missed, lost or pushed) and show the way back.
    # The mishap itself is not recorded. Tasks that do not start at a bowl's rim have none.
    recovery_share: float = 0.25
    # Start each attempt with the arm's joints off their usual positions by a random vector of up to this length, rad.
    # LIBERO-Plus's robot tasks take 0.1 to 0.5.
    arm_start_rad: float = 0.0
    # Store depth, intrinsics and extrinsics of both cameras with every frame.
    store_geometry: bool = False

    offered_suites = SUITES

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        super().validate()
        if not self.tasks:
            raise CollectionError(
                f"--suite={self.suite} with --task_ids={self.task_ids} leaves no task that the scripted expert knows; "
                f"it knows {known_by_suite()}."
            )
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
        check_at_least(CollectionError, self, noise=0, extra_steps=0, max_steps=1)
        check_in_range(CollectionError, self, recovery_share=(0, 1), arm_start_rad=(0, ARM_START_LIMIT_RAD))
        self._check_steps()
        if self.store_geometry:
            self.check_cells()

    def _check_steps(self) -> None:
        max_steps = self.max_steps or max(SUITE_MAX_STEPS[suite] for suite in self.suites)
        before = SETTLE_STEPS + (MISHAP_STEPS if self.recovery_share else 0)
        if before + max_steps + self.extra_steps > LONGEST_EPISODE:
            raise CollectionError(
                f"--max_steps={max_steps} and --extra_steps={self.extra_steps} must be at most "
                f"{LONGEST_EPISODE - before} together: LIBERO ends an episode after {LONGEST_EPISODE} steps, and "
                f"settling and mishaps (--recovery_share={self.recovery_share}) can take {before} before the first one "
                "recorded."
            )

    @property
    def tasks(self) -> list[TaskKey]:
        """Return the tasks to demonstrate, in the order in which they are written."""
        return [(suite, task_id) for suite, task_id in super().tasks if task_id in known_tasks(suite)]

    @property
    def skipped(self) -> list[TaskKey]:
        """Return the tasks asked for that the expert does not know."""
        return [(suite, task_id) for suite, task_id in super().tasks if task_id not in known_tasks(suite)]

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
            arm_start_rad=self.arm_start_rad,
            cameras=self,
            store_geometry=self.store_geometry,
        )

    def fixed_settings(self, suites: Sequence[str]) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; see :meth:`DatasetConfig.fixed_settings`."""
        names = ["noise", "displace_cm", "extra_steps", "max_steps", "recovery_share", "arm_start_rad"]
        names += ["random_cameras", "store_geometry", *(["depth_cell_px"] if self.store_geometry else [])]
        settings = super().fixed_settings(suites) | {name: getattr(self, name) for name in names}
        if self.max_steps is None:  # None in the record stands for each suite's own limit
            settings["max_steps"] = shared(SUITE_MAX_STEPS[suite] for suite in suites)
        return settings | (self.range_settings() if self.random_cameras else {})

    def record_notes(self) -> dict[str, Any]:
        """Return what else the dataset's record says about its making (JSON types)."""
        return {"convention": CONVENTION} if self.store_geometry else {}
