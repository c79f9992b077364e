"""Settings of ``atlasvla-collect-geometry``, and what is refused before any simulator starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lerobot_atlasvla.libero.cameras.features import CONVENTION
from lerobot_atlasvla.libero.cameras.ranges import RandomCameraConfig
from lerobot_atlasvla.libero.dataset_settings import CollectionError, TaskKey, shared
from lerobot_atlasvla.libero.experts.scripted import known_by_suite, known_tasks
from lerobot_atlasvla.libero.tasks import LONGEST_EPISODE, SETTLE_STEPS, SPATIAL
from lerobot_atlasvla.utils.setting_checks import check_at_least, check_in_range

EXPERT, FIXED, RANDOM = "expert", "fixed", "random"
SOURCES = (EXPERT, FIXED, RANDOM)


@dataclass
class GeometryConfig(RandomCameraConfig):
    """Settings of ``atlasvla-collect-geometry``. The same command again continues where a killed run stopped."""

    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded.
    repo_id: str | None = "local/atlasvla_geometry"
    # Episodes per task: states of one placement of the objects, or of one run of the scripted expert.
    episodes_per_task: int = 50
    # Height and width of all views, pixels.
    image_size: int = 64
    # Views of the scene per state, beside the wrist's, each from a random pose of its own. At least 1.
    random_cameras: int | None = 2
    # Where states come from, by turns, one episode each: expert (the scripted expert at work, if it knows the task),
    # fixed (LIBERO's initial states), random (placements). If not given, '[expert, random]' for libero_spatial and
    # '[random]' for the other suites.
    sources: list[str] | None = None
    # States of an episode that starts from a fixed or random placement, at least 2. Setting a placement takes about as
    # long as rendering 20 states.
    states_per_episode: int = 40
    # Take every so many steps of the expert a state.
    every_steps: int = 3
    # Steps after which the expert stops.
    max_steps: int = 280
    # Noise on the expert's actions, 1 what atlasvla-collect has.
    noise: float = 1.3
    # Share of fixed and random states, 0 to 1, in which the arm reaches for an object, with its fingers somewhere.
    reach_share: float = 0.75
    # Share of all states, 0 to 1, in which noise is added to the arm's joints.
    posture_share: float = 0.6
    # Standard deviations of that noise, rad, one of them at random.
    posture_noise: list[float] = field(default_factory=lambda: [0.03, 0.1])
    # Share of all states, 0 to 1, in which the loose objects are displaced along x and y.
    object_share: float = 0.5
    # Each on its own by up to this much along each, cm.
    object_offset_cm: float = 6.0
    # And all together by up to this much along each, cm. Without it, a backbone takes a displaced layout for a moved
    # camera.
    layout_offset_cm: float = 10.0

    def validate(self) -> None:
        """Raise :class:`CollectionError` for the first setting that cannot work; starts nothing."""
        super().validate()
        if self.sources is not None and (not self.sources or set(self.sources) - set(SOURCES)):
            raise CollectionError(f"--sources={self.sources} must name some of {', '.join(SOURCES)}.")
        if any(EXPERT in self.sources_of(suite) and task not in known_tasks(suite) for suite, task in self.tasks):
            raise CollectionError(
                f"--sources={self.sources} needs the scripted expert, which does not know every task of "
                f"--suite={self.suite} with --task_ids={self.task_ids}; it knows {known_by_suite()}. Leave the others "
                f"out with --task_ids, or leave {EXPERT} out."
            )
        # LeRobot 0.6.1 can't add up the statistics of matrices when an episode has a single frame.
        check_at_least(CollectionError, self, states_per_episode=2, every_steps=1, max_steps=1)
        if SETTLE_STEPS + self.max_steps > LONGEST_EPISODE:
            raise CollectionError(
                f"--max_steps={self.max_steps} must be at most {LONGEST_EPISODE - SETTLE_STEPS}: LIBERO ends an "
                f"episode after {LONGEST_EPISODE} steps, of which {SETTLE_STEPS} are for settling."
            )
        check_at_least(CollectionError, self, noise=0, object_offset_cm=0, layout_offset_cm=0)
        check_in_range(CollectionError, self, reach_share=(0, 1), posture_share=(0, 1), object_share=(0, 1))
        if not self.posture_noise or not all(0 <= std < math.inf for std in self.posture_noise):
            raise CollectionError(f"--posture_noise={self.posture_noise} must be numbers of at least 0, in rad.")
        for name in ("noise", "object_offset_cm", "layout_offset_cm"):
            if getattr(self, name) == math.inf:
                raise CollectionError(f"--{name}=inf must be a finite number.")
        if self.random_cameras is None:
            raise CollectionError("--random_cameras=None must be at least 1.")
        self.check_cells()

    def sources_of(self, suite: str) -> list[str]:
        """Return where states of a suite come from."""
        return self.sources or ([EXPERT, RANDOM] if suite == SPATIAL else [RANDOM])

    @property
    def views(self) -> list[str]:
        """Return the names of the views, the wrist's first."""
        return ["wrist", *(f"scene_{index}" for index in range(self.random_cameras or 0))]

    def job(self, key: TaskKey, attempt: int) -> GeometryJob:
        """Return the episode number ``attempt`` of a task under these settings."""
        return GeometryJob(self, *key, attempt)

    def fixed_settings(self, suites: Sequence[str]) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; see :meth:`DatasetConfig.fixed_settings`."""
        names = ("states_per_episode", "every_steps", "max_steps", "noise", "reach_share", "posture_share")
        names += ("posture_noise", "object_share", "object_offset_cm", "layout_offset_cm", "depth_cell_px")
        names += ("random_cameras",)
        # None in the record stands for each suite's own sources.
        settings = super().fixed_settings(suites) | {"sources": shared(map(self.sources_of, suites))}
        return settings | {name: getattr(self, name) for name in names} | self.range_settings()

    def record_notes(self) -> dict[str, Any]:
        """Return what else the dataset's record says about its making (JSON types)."""
        return {"convention": CONVENTION}


@dataclass(frozen=True)
class GeometryJob:
    """Describes one episode that a worker is to render.

    Attributes:
        config: Valid settings.
        suite: LIBERO suite.
        task_id: Task number within the suite.
        attempt: Episode number of this task, from 0.
    """

    config: GeometryConfig
    suite: str
    task_id: int
    attempt: int
