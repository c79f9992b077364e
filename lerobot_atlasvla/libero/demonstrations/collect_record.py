"""Record how a dataset was collected, and decide whether it may be continued."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from lerobot_atlasvla.libero.assets import assets_kind, libero_assets, same_files
from lerobot_atlasvla.libero.dataset_settings import CollectionError, DatasetConfig, TaskKey
from lerobot_atlasvla.libero.demonstrations.collect_settings import SETTINGS_BEFORE
from lerobot_atlasvla.libero.demonstrations.dataset_writer import INFO
from lerobot_atlasvla.libero.demonstrations.schema import SCHEMA_VERSION
from lerobot_atlasvla.libero.gl import GlUnavailableError
from lerobot_atlasvla.libero.patches.camera_pose import ENV_CAMERA_SHIFT, CameraShift
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY
from lerobot_atlasvla.libero.setup import describe_simulator
from lerobot_atlasvla.utils.commit import git_commit

RECORD_NAME = "atlasvla_collect.json"
DEFAULT_FEATURES = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
"""Features that LeRobot adds to every dataset."""
_IMAGE_VARIABLES = {"look": ENV_RENDER_QUALITY, "camera_shift": ENV_CAMERA_SHIFT}
"""What all images of a dataset share: keys of the record's simulator, and the variables that decide."""

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
    """Mean distance that the object to be moved really got, over the displaced attempts; None if there are none."""
    displaced: int = 0
    """Those of ``attempts`` whose objects were displaced."""
    recovery_attempts: int = 0
    """Those of ``attempts`` that started from a mishap."""
    recovery_kept: int = 0
    """Those of ``kept`` that started from a mishap."""
    frames_of_reference: dict[str, Any] | None = None
    """What the cameras' extrinsics refer to, (4, 4) matrices by name; None if no geometry was rendered."""

    @property
    def failures(self) -> int:
        """Return the attempts that were dropped."""
        return self.attempts - self.kept

    def record(self) -> dict[str, Any]:
        """Return the task's part of the record (JSON types)."""
        values = asdict(self) | {"failures": self.failures}
        if self.frames_of_reference is None:
            del values["frames_of_reference"]
        return values


@dataclass
class Progress:
    """Contents of the dataset and the effort they took; committed together with the episodes."""

    tasks: dict[TaskKey, TaskProgress] = field(default_factory=dict)
    wall_s: float = 0.0
    new_episodes: int = 0
    """Kept by this run; not recorded."""
    new_frames: int = 0
    """Theirs; not recorded."""

    def record(self, config: DatasetConfig, source: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON for the dataset's record in ``meta``; tasks of a single suite go by their number alone."""
        suites = list(dict.fromkeys(suite for suite, _ in self.tasks))
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": {"suite": ",".join(suites), **config.fixed_settings(suites)},
            **config.record_notes(),
            **source,
            "wall_s": round(self.wall_s, 1),
            "tasks": {
                str(task_id) if len(suites) == 1 else f"{suite}/{task_id}": task.record()
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
            if "displaced" not in task and tasks[key].mean_displacement_cm is not None:  # before the count was kept
                tasks[key].displaced = tasks[key].attempts
        return cls(tasks, record["wall_s"])


def check_same_settings(record: dict[str, Any], config: DatasetConfig) -> None:
    """Refuse to continue a dataset that was made differently.

    Raises:
        CollectionError: Naming the first differing setting, both values and the flag.
    """
    if record["schema_version"] != SCHEMA_VERSION:
        raise CollectionError(
            f"--root={config.root} was written with schema version {record['schema_version']}, this is version "
            f"{SCHEMA_VERSION}; choose a new --root."
        )
    for name, value in config.fixed_settings(record["settings"]["suite"].split(",")).items():
        recorded = record["settings"].get(name, SETTINGS_BEFORE.get(name))
        if recorded != value:
            raise CollectionError(
                f"--{name}={value} differs from {recorded}, with which the dataset at --root={config.root} was made. "
                f"Continue it with {shlex.quote(f'--{name}={recorded}')}, or choose a new --root."
            )


def check_same_features(features: dict[str, Any], config: DatasetConfig) -> None:
    """Refuse to continue a dataset whose frames have other features than this command writes.

    Args:
        features: What it writes, for ``LeRobotDataset.create``.
        config: The settings.

    Raises:
        CollectionError: Naming the features that differ.
    """
    recorded = json.loads((config.root / INFO).read_text())["features"]
    ours, theirs = (
        {name: (spec["dtype"], list(spec["shape"])) for name, spec in specs.items() if name not in DEFAULT_FEATURES}
        for specs in (features, recorded)
    )
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        raise CollectionError(
            f"--root={config.root} holds a dataset of other features than this command writes (they differ in "
            f"{', '.join(differing)}). Nothing was touched; choose a new --root."
        )


def check_same_source(record: dict[str, Any], source: dict[str, Any], config: DatasetConfig) -> None:
    """Refuse to mix assets or kinds of images in one dataset; warn about other simulator versions.

    Raises:
        CollectionError: If the dataset was made with other assets, another render quality or another camera shift.
    """
    if assets_kind(record["assets"]) != assets_kind(source["assets"]):
        raise CollectionError(
            f"The simulator has {source['assets']} assets, but the dataset at --root={config.root} was made with "
            f"{record['assets']} ones. Choose a new --root, or set ATLASVLA_LIBERO_ASSETS to the same assets as then."
        )
    for name, value in source["simulator"].items():
        recorded = record["simulator"].get(name)
        if variable := _IMAGE_VARIABLES.get(name):
            if recorded not in (value, None):  # earlier versions did not record it
                raise CollectionError(
                    f"{variable}={value} differs from {recorded}, with which the dataset at --root={config.root} "
                    f"was made. Continue it with {variable}={shlex.quote(recorded)}, or choose a new --root."
                )
            continue
        if name == "assets":
            differs = not same_files(recorded or record["assets"], value)
        else:
            differs = recorded != value and not name.startswith("assets_")  # where they lie may differ
        if differs:
            logger.warning("The dataset was begun with %s %s; this run has %s.", name, recorded, value)


def _camera_shift() -> str:
    """Return the shift of the scene camera as its variable has it, the same text for the same shift."""
    shift = asdict(CameraShift.from_env())
    return json.dumps({name: float(value) for name, value in shift.items() if value})


def describe_source() -> dict[str, Any]:
    """Return the assets, simulator and commit that the workers will simulate with (JSON types); settles them.

    Raises:
        CollectionError: If nothing can render, the assets asked for are not there, or a variable has a wrong value.
    """
    try:
        simulator = {name: value for name, value in describe_simulator().items() if name != "assets_path"}
        simulator["camera_shift"] = _camera_shift()
        # No local paths in what may be published.
        return {"assets": libero_assets().kind, "simulator": simulator, "commit": git_commit()}
    except (GlUnavailableError, OSError, ValueError) as error:
        raise CollectionError(str(error)) from error
