"""The numbers of a report: from finished rollouts to ``report.json``, and back."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.files import Recorded, json_text, only_writer, read_object
from eval.common.statistics import format_rate, mean_over_seeds, wilson_interval
from eval.rollout.run_folder import RUN_FILE, Rollout, Run, read_run, with_later_settings
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.tasks import SUITE_TASKS

SCHEMA_VERSION = 1
REPORT_FILE = "report.json"
_LEFT_OUT = ("instruction", "displacement_cm", "task_name", "undisturbed", "path_m", "jerk_m_s3", "judgment")
_COLUMNS = tuple(f.name for f in fields(Rollout) if f.name not in _LEFT_OUT)
_DISPLACEMENT_COLUMNS = ("displaced_x_cm", "displaced_y_cm")
_RUN_PARTS = ("name", "command", "policy", "training", "settings", "versions", "simulator")

Task = tuple[str, int]
"""(suite, task_id)"""


@dataclass(frozen=True)
class LabeledRun:
    """Hold a run with at least one rollout, and what the report calls it.

    Attributes:
        label: What the report calls it.
        run: The run.
        reliance: What its policy relies on (:func:`eval.report.reliance_results.summary`); None if not measured.
    """

    label: str
    run: Run
    reliance: Mapping[str, Any] | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Return the numbers of successes and rollouts."""
        return counts(self.run.rollouts)

    @property
    def total(self) -> str:
        """Return, for example, ``19/20 = 95.0 % [76.4, 99.1]``."""
        return format_rate(*self.counts)

    @property
    def asked(self) -> int:
        """Return how many rollouts the run's settings ask for."""
        settings = self.run.settings
        if settings["task_ids"] is not None:
            tasks = len(settings["suites"]) * len(settings["task_ids"])
        elif unknown := [suite for suite in settings["suites"] if suite not in SUITE_TASKS]:
            raise EvalError(
                f"{self.run.name} asks for all tasks of {', '.join(unknown)}, whose number is not known; "
                f"known are {', '.join(SUITE_TASKS)}."
            )
        else:
            tasks = sum(SUITE_TASKS[suite] for suite in settings["suites"])
        return tasks * len(settings["seeds"]) * settings["episodes"]

    @property
    def displacement(self) -> str:
        """Return, for example, ``up to 8 cm``; empty if the objects were where LIBERO puts them."""
        limit_cm = self.run.settings["displace_cm"]
        return f"up to {limit_cm:g} cm" if limit_cm else ""

    @property
    def incomplete(self) -> str:
        """Return, for example, ``incomplete: 37 of 200``; empty for a finished run."""
        done = len(self.run.rollouts)
        return f"incomplete: {done} of {self.asked}" if done != self.asked else ""

    def by_task(self) -> dict[Task, list[Rollout]]:
        """Return the rollouts of each task, tasks in order."""
        return sorted_groups(self.run.rollouts, lambda rollout: (rollout.suite, rollout.task_id))

    def by_seed(self) -> dict[int, list[Rollout]]:
        """Return the rollouts of each seed, seeds in order."""
        return sorted_groups(self.run.rollouts, lambda rollout: rollout.seed)

    def seed_agreement(self) -> tuple[int, int]:
        """Return the states with the same outcome at every seed, and states that several seeds started from."""
        outcomes = sorted_groups(
            self.run.rollouts, lambda rollout: (rollout.suite, rollout.task_id, rollout.init_state)
        )
        repeated = [rollouts for rollouts in outcomes.values() if len(rollouts) > 1]
        return sum(len({rollout.success for rollout in rollouts}) == 1 for rollouts in repeated), len(repeated)

    def failures(self) -> list[Rollout]:
        """Return the failed rollouts, those with a video first, otherwise in order of task, seed and state."""
        failed = [rollout for rollout in self.run.rollouts if not rollout.success]
        return sorted(failed, key=lambda rollout: (rollout.video is None, rollout.key))


def sorted_groups(rollouts: Iterable[Rollout], key: Callable[[Rollout], Any]) -> dict[Any, list[Rollout]]:
    """Return the rollouts by what ``key`` says of them, in the order of these keys."""
    groups = defaultdict(list)
    for rollout in rollouts:
        groups[key(rollout)].append(rollout)
    return dict(sorted(groups.items()))


def counts(rollouts: Sequence[Rollout]) -> tuple[int, int]:
    """Return the numbers of successes and rollouts."""
    return sum(rollout.success for rollout in rollouts), len(rollouts)


def steps_to_success(rollouts: Sequence[Rollout]) -> list[int]:
    """Return the steps of the successful rollouts."""
    return [rollout.steps for rollout in rollouts if rollout.success]


def labeled(label: str, run: Run) -> LabeledRun:
    """Check that a run can be reported.

    Raises:
        EvalError: If no rollout has finished, or one is there twice.
    """
    if not run.rollouts:
        raise EvalError(
            f"{run.path if run.path != Path() else run.name} has no finished rollouts, so there is nothing to report."
        )
    if "benchmark" in run.settings:
        raise EvalError(
            f"{run.path if run.path != Path() else run.name} is a run on {run.settings['benchmark']}, whose report its "
            "own command writes into the run folder."
        )
    keys = [rollout.key for rollout in run.rollouts]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise EvalError(f"{run.name} has the rollout (suite, task, seed, initial state) = {twice} more than once.")
    return LabeledRun(label, run)


def rate_figures(successes: int, rollouts: int) -> dict[str, Any]:
    """Return a success rate for ``report.json``: text, counts, rate and 95 % Wilson interval (rates in [0, 1])."""
    return {
        "total": format_rate(successes, rollouts),
        "successes": successes,
        "rollouts": rollouts,
        "rate": successes / rollouts,
        "interval": list(wilson_interval(successes, rollouts)),
    }


def run_figures(entry: LabeledRun) -> dict[str, Any]:
    """Return all about one run, for ``report.json``; :func:`read_runs` makes the run of it again."""
    seeds = {seed: counts(rollouts) for seed, rollouts in entry.by_seed().items()}
    mean, deviation = mean_over_seeds([successes / rollouts for successes, rollouts in seeds.values()])
    displaced = any(rollout.displacement_cm for rollout in entry.run.rollouts)
    return {
        "label": entry.label,
        **rate_figures(*entry.counts),
        "rollouts_asked": entry.asked,
        "tasks": [_task_figures(task, rollouts) for task, rollouts in entry.by_task().items()],
        "seeds": [{"seed": seed, **rate_figures(*of_seed)} for seed, of_seed in seeds.items()],
        "mean_over_seeds": mean,
        "deviation_over_seeds": deviation,
        "reliance": entry.reliance,
        "wall_s_per_rollout": statistics.fmean(rollout.wall_s for rollout in entry.run.rollouts),
        **{part: getattr(entry.run, part) for part in _RUN_PARTS},
        "rollout_columns": [*_COLUMNS, *(_DISPLACEMENT_COLUMNS if displaced else ())],
        "rollout_rows": [
            [*(getattr(rollout, name) for name in _COLUMNS), *(rollout.displacement_cm or ())]
            for rollout in sorted_rollouts(entry.run)
        ],
    }


def sorted_rollouts(run: Run) -> list[Rollout]:
    """Return the rollouts by task, seed and state: the order of completion depends on the workers."""
    return sorted(run.rollouts, key=lambda rollout: rollout.key)


def _task_figures(task: Task, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    steps = steps_to_success(rollouts)
    return {
        "suite": task[0],
        "task_id": task[1],
        "instruction": rollouts[0].instruction,
        **rate_figures(*counts(rollouts)),
        "steps_to_success": {"median": statistics.median(steps), "min": min(steps), "max": max(steps)}
        if steps
        else None,
    }


def read_runs(path: Path) -> list[LabeledRun]:
    """Read a run folder, a report's folder or its ``report.json``.

    Returns:
        One entry for a run folder, labeled with its name; those of the report, with its labels, otherwise.

    Raises:
        EvalError: If it is none of them, cannot be read, or has no finished rollouts.
    """
    if (path / RUN_FILE).is_file():
        run = read_run(path)
        return [labeled(run.name, run)]
    file = path / REPORT_FILE if path.is_dir() else path
    if not file.is_file():
        raise EvalError(f"{path} is neither a run folder of eval.run nor a report ({REPORT_FILE}) of eval.report.")
    content = read_report(file)
    if content["kind"] != "rollouts":
        raise EvalError(f"{file} is a report of kind {content['kind']!r}; only 'rollouts' holds single rollouts.")
    if content.get("runs") == []:
        raise EvalError(f"{file} holds no run.")
    try:
        return [
            replace(labeled(entry["label"], _run_of(file, entry)), reliance=entry.get("reliance"))
            for entry in content["runs"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise EvalError(f"{file} is not what eval.report writes: {error!r}.") from error


def _run_of(file: Path, entry: Mapping[str, Any]) -> Run:
    instructions = {(task["suite"], task["task_id"]): task["instruction"] for task in entry["tasks"]}
    rows = [dict(zip(entry["rollout_columns"], row, strict=True)) for row in entry["rollout_rows"]]
    for row in rows:
        if vector := tuple(row.pop(name) for name in _DISPLACEMENT_COLUMNS if name in row):
            row["displacement_cm"] = vector
    told = ({"instruction": instructions[row["suite"], row["task_id"]]} | row for row in rows)
    rollouts = tuple(map(Rollout.from_json, told))
    parts = {part: entry[part] for part in _RUN_PARTS}
    parts["settings"] = Recorded(file, "eval.report", with_later_settings(parts["settings"]))
    parts["policy"] = Recorded(file, "eval.report", parts["policy"])
    return Run(**parts, rollouts=rollouts)


def read_report(file: Path) -> dict[str, Any]:
    """Read a ``report.json`` of any kind.

    Raises:
        EvalError: If it is none, or of another version.
    """
    content = read_object(file, "eval.report")
    if "kind" not in content:
        raise EvalError(f"{file} is not a report: it does not say of which kind it is.")
    kind, version = content["kind"], content.get("schema_version", SCHEMA_VERSION)
    if kind == "rollouts" and version != SCHEMA_VERSION:
        raise EvalError(f"{file} has schema version {version}; this is version {SCHEMA_VERSION}.")
    return content


def note_text(file: Path | None, folder: Path, kind: str) -> str:
    """Remarks by hand: those of the file, or if there is none, of the report that is about to be replaced.

    Args:
        file: Markdown; an empty file removes earlier remarks.
        folder: Folder of the report.
        kind: What is about to be written there.

    Raises:
        EvalError: If the folder holds a report of another kind.
        OSError: If the file cannot be read.
    """
    earlier = read_report(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else {}
    if earlier and earlier["kind"] != kind:
        raise EvalError(f"{folder} holds a report of kind {earlier['kind']!r}; choose another --name.")
    return earlier.get("note", "") if file is None else file.read_text(encoding="utf-8")


def enumeration(names: Sequence[str]) -> str:
    """Return, for example, ``A``, ``A and B``, ``A, B and C``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def publish(folder: Path, kind: str, content: Mapping[str, Any], page: str) -> Path:
    """Make a report's folder, and write a report that is complete into it; see :func:`write_files`.

    Raises:
        EvalError: If another process is writing it.
    """
    with only_writer(folder, "--name"):
        return write_files(folder, kind, {"complete": True} | dict(content), page)


def write_files(folder: Path, kind: str, content: Mapping[str, Any], page: str) -> Path:
    """Write ``report.json`` and ``report.md``; return the latter.

    Args:
        folder: Folder of the report.
        kind: Of the report.
        content: Of ``report.json``, without what identifies it.
        page: Markdown.
    """
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "name": folder.name}
    write_text(folder / REPORT_FILE, json_text(head | dict(content)))
    write_text(folder / "report.md", page)
    return folder / "report.md"
