"""The tables of ``docs/tasks.md``, written by ``python -m eval.results_table``: expert and policies, task by task.

Expert rates are read from the tables of ``experts.md``, those of the policies from the ``report.json`` that
:data:`POLICIES` names. What has no report has no column, and a task without a figure has a dash.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from eval.common.errors import EvalError
from eval.common.markdown import table
from eval.common.statistics import wilson_interval
from eval.report.data import REPORT_FILE, read_report
from lerobot_atlasvla.libero.experts.scripted import PLANS
from lerobot_atlasvla.libero.tasks import SPATIAL

POLICIES = {
    SPATIAL: ("replan_nominal", "replan_displaced"),
    "libero_object": ("object_nominal", "object_displaced"),
    "libero_goal": ("replan_goal_nominal", "replan_goal_displaced"),
    "libero_10": ("libero_10_nominal",),
}
"""Reports of each suite: the first run is the policy's, and one whose label begins with "blind" its control's."""
THREE_SUITES = "thirty_tasks"
"""Report of one policy for the three suites, and its control."""
_SCENE = re.compile(r"^[A-Z_]+\d+_")
"""Begins the names of libero_10's tasks."""


def tasks_block(results: Path, _page: Path) -> str:
    """Return a heading and a table for each suite of which the scripted expert knows tasks.

    Args:
        results: Folder of all reports.

    Raises:
        EvalError: If a report cannot be read or lacks something, or a suite's expert was not measured.
    """
    lines: list[str] = []
    for suite, plans in PLANS.items():
        columns = {"expert": expert_rates(results, suite)} | _policy_rates(results, suite)
        tasks = [f"{number} {_SCENE.sub('', name).replace('_', ' ')}" for number, name in enumerate(plans)]
        rows = [(task, *(rates.get(number, "-") for rates in columns.values())) for number, task in enumerate(tasks)]
        lines += ["", f"## {suite}", "", *table(("task", *columns), rows)]
    return "\n".join(lines[1:])


def expert_rates(results: Path, suite: str) -> dict[int, str]:
    """Read how often the expert succeeds, by task, from the tables with that column in the suite's section."""
    file, column = "experts.md", "success"
    section = (results / file).read_text(encoding="utf-8").partition(f"\n## {suite}\n")[2].partition("\n## ")[0]
    rates: dict[int, str] = {}
    place = None
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        place = cells.index(column) if column in cells else place if cells else None
        if place is not None and (counts := re.match(r"(\d+)/(\d+)", cells[place])):
            rates[int(cells[0].split()[0])] = _rate(int(counts[1]), int(counts[2]))
    if not rates:
        raise EvalError(f"{results / file} has no table with the column {column!r} for {suite}.")
    return rates


def _policy_rates(results: Path, suite: str) -> dict[str, Mapping[int, str]]:
    columns: dict[str, Mapping[int, str]] = {}
    reports = dict.fromkeys(POLICIES.get(suite, ()), "") | {THREE_SUITES: ", three suites"}
    for name, of_what in reports.items():
        file = results / name / REPORT_FILE
        for place, run in enumerate(read_report(file)["runs"] if file.exists() else ()):
            kind = "blind" if run["label"].startswith("blind") else "" if place else "policy"
            displaced = ", objects displaced" if run["settings"].get("displace_cm") else ""
            tasks = [task for task in run["tasks"] if task["suite"] == suite]
            if kind and tasks:
                columns[kind + of_what + displaced] = {
                    task["task_id"]: _rate(task["successes"], task["rollouts"]) for task in tasks
                }
    return columns


def _rate(successes: int, rollouts: int) -> str:
    low, high = wilson_interval(successes, rollouts)
    return f"{successes}/{rollouts} [{100 * low:.0f}, {100 * high:.0f}]"
