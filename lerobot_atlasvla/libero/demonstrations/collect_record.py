"""What a collected dataset says about its making, and which datasets may be continued."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from lerobot_atlasvla.libero.assets import assets_kind, libero_assets, same_files
from lerobot_atlasvla.libero.demonstrations.collect_settings import (
    SETTINGS_BEFORE,
    CollectConfig,
    CollectionError,
    TaskKey,
)
from lerobot_atlasvla.libero.demonstrations.dataset_writer import INFO
from lerobot_atlasvla.libero.demonstrations.schema import SCHEMA_VERSION, libero_features
from lerobot_atlasvla.libero.gl import GlUnavailableError
from lerobot_atlasvla.libero.setup import describe_simulator
from lerobot_atlasvla.libero.tasks import SUITE_MAX_STEPS

RECORD_NAME = "atlasvla_collect.json"
DEFAULT_FEATURES = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
"""Features that LeRobot adds to every dataset."""

logger = logging.getLogger(__name__)


@dataclass
class TaskProgress:
    """Attempts of one task so far, in order."""

    name: str = ""
    instruction: str = ""
    attempts: int = 0
    kept: int = 0
    failures_in_a_row: int = 0
    mean_displacement_cm: float | None = None
    """Mean distance that the object to be moved really got, over all attempts; None if nothing is displaced."""
    recovery_attempts: int = 0
    """Those of ``attempts`` that started from a mishap."""
    recovery_kept: int = 0
    """Those of ``kept`` that started from a mishap."""

    @property
    def failures(self) -> int:
        """Return the attempts that were dropped."""
        return self.attempts - self.kept


@dataclass
class Progress:
    """Contents of the dataset and the effort they took; committed together with the episodes."""

    tasks: dict[TaskKey, TaskProgress] = field(default_factory=dict)
    wall_s: float = 0.0
    new_episodes: int = 0
    """Kept by this run; not recorded."""

    def record(self, config: CollectConfig, source: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON for ``meta/atlasvla_collect.json``; with one suite, tasks are named by their number alone."""
        suites = list(dict.fromkeys(suite for suite, _ in self.tasks))
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": {"suite": ",".join(suites), **config.fixed_settings(suites)},
            **source,
            "wall_s": round(self.wall_s, 1),
            "tasks": {
                (str(task_id) if len(suites) == 1 else f"{suite}/{task_id}"): {
                    **asdict(task),
                    "failures": task.failures,
                }
                for (suite, task_id), task in self.tasks.items()
            },
        }

    @classmethod
    def from_record(cls, record: dict[str, Any] | None) -> Progress:
        """Invert :meth:`record`; None gives a fresh start."""
        if record is None:
            return cls()
        tasks = {}
        for name, task in record["tasks"].items():
            suite, _, task_id = name.rpartition("/")
            key = (suite or record["settings"]["suite"], int(task_id))
            tasks[key] = TaskProgress(**{field: value for field, value in task.items() if field != "failures"})
        return cls(tasks, record["wall_s"])


def check_same_settings(record: dict[str, Any], config: CollectConfig) -> None:
    """Refuse to continue a dataset that was made differently.

    Raises:
        CollectionError: Naming the first differing setting, both values and the flag.
    """
    if record["schema_version"] != SCHEMA_VERSION:
        raise CollectionError(
            f"--root={config.root} was written with schema version {record['schema_version']}, this is version "
            f"{SCHEMA_VERSION}; choose a new --root."
        )
    for name, value in config.fixed_settings().items():
        recorded = record["settings"].get(name, SETTINGS_BEFORE.get(name))
        if name == "max_steps" and config.max_steps is None and recorded == _own_limit(record):
            continue  # every suite its own, then and now
        if recorded != value:
            raise CollectionError(
                f"--{name}={value} differs from {recorded}, with which the dataset at --root={config.root} was made. "
                f"Continue it with {shlex.quote(f'--{name}={recorded}')}, or choose a new --root."
            )


def _own_limit(record: dict[str, Any]) -> int | None:
    limits = {SUITE_MAX_STEPS[suite] for suite in record["settings"]["suite"].split(",")}
    return limits.pop() if len(limits) == 1 else None


def check_same_features(config: CollectConfig) -> None:
    """Refuse to continue a dataset whose frames have other features than this command writes.

    Raises:
        CollectionError: Naming the features.
    """
    info = json.loads((config.root / INFO).read_text())
    ours = libero_features(config.image_size)
    theirs = {name: spec for name, spec in info["features"].items() if name not in DEFAULT_FEATURES}
    differing = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours
        or name not in theirs
        or (ours[name]["dtype"], list(ours[name]["shape"])) != (theirs[name]["dtype"], list(theirs[name]["shape"]))
    )
    if differing:
        raise CollectionError(
            f"--root={config.root} holds a dataset of other features than this command writes (they differ in "
            f"{', '.join(differing)}). Nothing was touched; choose a new --root."
        )


def check_same_source(record: dict[str, Any], source: dict[str, Any], config: CollectConfig) -> None:
    """Refuse to mix assets in one dataset; warn about other simulator versions.

    Raises:
        CollectionError: If the dataset was made with other assets.
    """
    if assets_kind(record["assets"]) != assets_kind(source["assets"]):
        raise CollectionError(
            f"The simulator has {source['assets']} assets, but the dataset at --root={config.root} was made with "
            f"{record['assets']} ones. Choose a new --root, or set ATLASVLA_LIBERO_ASSETS to the same assets as then."
        )
    for name, value in source["simulator"].items():
        recorded = record["simulator"].get(name)
        if name == "assets":
            differs = not same_files(recorded or record["assets"], value)
        else:
            differs = recorded != value and not name.startswith("assets_")  # where they lie may differ
        if differs:
            logger.warning("The dataset was begun with %s %s; this run has %s.", name, recorded, value)


def describe_source() -> dict[str, Any]:
    """Return the assets and simulator that the workers will simulate with (JSON types); settles both for them.

    Raises:
        CollectionError: If nothing can render, or the assets asked for are not there.
    """
    try:
        simulator = {name: value for name, value in describe_simulator().items() if name != "assets_path"}
        return {"assets": libero_assets().kind, "simulator": simulator}  # no local paths in what may be published
    except (GlUnavailableError, OSError, ValueError) as error:
        raise CollectionError(str(error)) from error
