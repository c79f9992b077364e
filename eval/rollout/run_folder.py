"""Write and read the output folder of ``python -m eval.run``: ``run.json``, ``rollouts.jsonl`` and ``videos/``.

``run.json`` says what was asked and with what; it is there before the first rollout. ``rollouts.jsonl`` gets a line as
soon as a rollout has finished, so that nothing finished is ever lost.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, get_type_hints

from eval.common.errors import EvalError
from eval.common.files import Recorded, read_object
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift
from lerobot_atlasvla.utils.kinds import described, is_of

SCHEMA_VERSION = 1
WRITER = "eval.run"
RUN_FILE = "run.json"
ROLLOUTS_FILE = "rollouts.jsonl"
VIDEOS_FOLDER = "videos"

SETTINGS_ADDED_LATER = {"displace_cm": 0.0, "retreat_steps": 0}
"""Settings that older runs do not record, and what was in force there."""

RolloutKey = tuple[str, int, int, int]
"""(suite, task_id, seed, init_state): what a rollout is, whatever came out of it."""


@dataclass(frozen=True)
class Rollout:
    """Record the outcome of one finished rollout.

    Attributes:
        suite: LIBERO suite.
        task_id: Index of the task in the suite.
        instruction: What the policy was told.
        seed: The run's seed, one of ``settings["seeds"]``; the simulator is reset with ``seed + init_state``.
        init_state: Index of LIBERO's fixed initial state, which is the number of the rollout within its task and seed.
        success: Whether the task was solved within the episode's limit.
        steps: Control steps taken: until success, or the episode's limit.
        wall_s: Seconds, the making of a video not counted.
        video: File relative to the run folder, if this rollout was filmed.
        displacement_cm: By how much the objects were displaced along x and y of the world; None if they were not.
        task_name: Name of the task in its benchmark; None for LIBERO's own.
        undisturbed: Whether nothing moved that the task does not name; None if it was not measured.
        path_m: Length of the gripper's path until the success or the end, m.
        jerk_m_s3: Root mean square of the third derivative of its position, m/s^3; None for under four positions.
        judgment: What the task's judge recorded; None where LIBERO's goal of the task judged alone.
    """

    suite: str
    task_id: int
    instruction: str
    seed: int
    init_state: int
    success: bool
    steps: int
    wall_s: float
    video: str | None = None
    displacement_cm: tuple[float, float] | None = None
    task_name: str | None = None
    undisturbed: bool | None = None
    path_m: float | None = None
    jerk_m_s3: float | None = None
    judgment: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Invert ``dataclasses.asdict`` through JSON, which has no tuples.

        Raises:
            TypeError: If values are missing, not known, or of another type.
        """
        rollout = cls(**values)
        _check_types(rollout)
        if rollout.displacement_cm is None:
            return rollout
        x, y = rollout.displacement_cm
        return replace(rollout, displacement_cm=(x, y))

    @property
    def key(self) -> RolloutKey:
        """Return what identifies it in its run."""
        return self.suite, self.task_id, self.seed, self.init_state


@dataclass(frozen=True)
class Run:
    """Describe a run: what was asked, with what, and the rollouts finished so far.

    Attributes:
        name: The run folder's name.
        command: The command that began it.
        policy: ``checkpoint``, ``type``, ``parameters``, ``n_action_steps``, ``chunk_size``, ``weights_sha256``,
            ``settings_sha256`` (not in runs of earlier versions) and ``device``.
        training: What the checkpoint says about its training, or None if it says nothing.
        settings: What was asked: ``suites``, ``task_ids`` (None for all), ``seeds``, ``episodes`` and everything that
            moves results.
        versions: Commit, Python and packages.
        simulator: Versions, OpenGL backend, render quality and assets.
        rollouts: Finished ones, in order of completion.
        path: The run folder; not part of ``run.json``.
    """

    name: str
    command: str
    policy: dict[str, Any]
    training: dict[str, Any] | None
    settings: dict[str, Any]
    versions: dict[str, Any]
    simulator: dict[str, Any]
    rollouts: tuple[Rollout, ...] = field(default=(), repr=False)
    path: Path = Path()


def _check_types(recorded: Rollout | Run) -> None:
    """Raise ``TypeError`` for the first value that is of another type than its field."""
    for name, kind in _kinds(type(recorded)).items():
        if name not in ("rollouts", "path") and not is_of(value := getattr(recorded, name), kind):
            raise TypeError(f"{name} must be {described(kind)}, got {value!r:.100}")


@cache
def _kinds(recorded: type[Any]) -> dict[str, Any]:
    return get_type_hints(recorded)


def with_later_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with what an older one does not record added at the end."""
    filled = {**settings, **{name: value for name, value in SETTINGS_ADDED_LATER.items() if name not in settings}}
    if isinstance(shift := filled.get("camera_shift"), Mapping):
        filled["camera_shift"] = {**asdict(CameraShift()), **shift}
    return filled


def read_run(path: Path | str) -> Run:
    """Read a run folder, finished or not.

    A last line that was cut short is left out: that rollout did not finish.

    Args:
        path: The folder that ``--output_dir`` named.

    Raises:
        EvalError: If it is no run folder, was written by another version, or a line cannot be read.
    """
    path = Path(path)
    file = path / RUN_FILE
    if not file.is_file():
        raise EvalError(f"{path} is not a run folder of eval.run: it has no {RUN_FILE}.")
    content = read_object(file, WRITER)
    try:
        version = content.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise EvalError(f"{file} has schema version {version}; this is version {SCHEMA_VERSION}.")
        content["settings"] = with_later_settings(content["settings"])
        run = Run(**content, rollouts=tuple(_read_rollouts(path / ROLLOUTS_FILE)), path=path)
        _check_types(run)
        return replace(run, settings=Recorded(file, WRITER, run.settings), policy=Recorded(file, WRITER, run.policy))
    except (KeyError, TypeError) as error:
        raise EvalError(f"{file} is not what {WRITER} writes: {error!r}.") from error


def write_run(run: Run) -> None:
    """Write ``run.json`` into ``run.path``, whole or not at all; the rollouts are not touched."""
    names = [f.name for f in fields(run) if f.name not in ("rollouts", "path")]
    content = {"schema_version": SCHEMA_VERSION} | {name: getattr(run, name) for name in names}
    write_text(run.path / RUN_FILE, json.dumps(content, indent=1) + "\n")


class RolloutLog:
    """Append to the ``rollouts.jsonl`` of a run folder; see :func:`open_log`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, rollout: Rollout) -> None:
        """Add a line, handed to the operating system when this returns.

        Raises:
            OSError: If the disk is full, for example; the lines before are unharmed.
        """
        line = (json.dumps(asdict(rollout)) + "\n").encode()
        written = 0
        while written < len(line):
            written += os.write(self._descriptor, line[written:])


@contextmanager
def open_log(folder: Path) -> Iterator[RolloutLog]:
    """Open ``rollouts.jsonl`` of a run folder for appending, dropping a last line that was cut short.

    Only for the one that has the folder to itself (:func:`eval.common.files.only_writer`).
    """
    file = folder / ROLLOUTS_FILE
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.ftruncate(descriptor, file.read_bytes().rfind(b"\n") + 1)
        yield RolloutLog(descriptor)
    finally:
        os.close(descriptor)


def _read_rollouts(file: Path) -> Iterator[Rollout]:
    if not file.exists():
        return
    # What follows the last line end was cut short: an empty string in a file that is whole.
    *lines, _ = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield Rollout.from_json(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise EvalError(f"{file}, line {number}, is not a rollout: {error}.") from error
