"""``report.md`` of ``eval.reading``: tables and where the numbers come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.common.markdown import notes, table
from eval.reading.judge import OUTCOMES, TOLD
from eval.reading.plot import PLOT
from eval.report.data import LabeledRun
from eval.report.page import INTERVAL_NOTE, provenance_lines
from eval.rollout.run_folder import Run

ABOUT = """The policy stands in the scene and the initial state of one task and is told another one. A rollout ends with
the first goal that is reached, of any task of the scene, or at the suite's limit of steps. A policy that reads does
what it is told; one that recognizes the state does what the state was collected for."""
NOMINAL_NOTE = "The diagonal is not rolled out here: it is the success of {name}, {total}."
THIRD_HEAD = ("state of", "told", "goal reached instead", "rollouts")
LEFT_OUT_NOTE = """These rollouts are not counted, because one of the two goals was true at the start:"""
NOT_JUDGED_NOTE = """These third goals did not judge: the scene lacks what they name, they are part of one of the two
goals, or they were true at the start."""


def page_of(content: Mapping[str, Any], run: Run) -> str:
    """Return the report as Markdown.

    Args:
        content: Of ``report.json``.
        run: The run.
    """
    tasks = [f"{task} {instruction}" for task, instruction in enumerate(content["tasks"])]
    lines = [f"# Does it read its instruction? {content['suite']}: {run.name}", ""]
    if not content["complete"]:
        done = f"{len(content['rollout_rows'])} of {content['rollouts_asked']}"
        lines += [f"> **incomplete: {done} rollouts are finished. These figures are preliminary.**", ""]
    if limit_cm := content["displaced_cm"]:
        lines += [f"All objects displaced by up to {limit_cm:g} cm along x and y.", ""]
    rows = [[outcome, meaning, _rate(content["total"][outcome])] for outcome, meaning in OUTCOMES.items()]
    lines += [*table(("outcome", "reached first", "rollouts, 95 % interval"), rows), ""]
    lines += [*ABOUT.splitlines(), "", *INTERVAL_NOTE.splitlines(), ""]
    lines += notes(content["note"])
    lines += ["## Pairs", "", f"![told, by pair]({PLOT})", "", *_matrix(content), ""]
    if nominal := content["nominal"]:
        lines += [NOMINAL_NOTE.format(**nominal), ""]
    for head, key in (("told task", "told_task"), ("task of the state", "state_task")):
        rows = [[tasks[row[key]], *(_rate(row[outcome]) for outcome in OUTCOMES)] for row in content[f"by_{key}"]]
        lines += [f"## By {head}", "", *table((head, *OUTCOMES), rows), ""]
    lines += _rows("Third goals", "", THIRD_HEAD, content["third_goals"], tasks)
    left_out = ("state of", "told", "true at the start", "rollouts")
    lines += _rows("Left out", LEFT_OUT_NOTE, left_out, content["left_out"], tasks)
    not_judged = ("state of", "goal", "rollouts")
    lines += _rows("Goals that did not judge", NOT_JUDGED_NOTE, not_judged, content["not_judged"], tasks)
    return "\n".join([*lines, *provenance_lines(LabeledRun(run.name, run))]).rstrip() + "\n"


def _matrix(content: Mapping[str, Any]) -> list[str]:
    """Return the pairs, told of all rollouts: a row for each task that gave the state."""
    cells = {(pair["state_task"], pair["told_task"]): f"{pair[TOLD]}/{pair['rollouts']}" for pair in content["pairs"]}
    for task in (content["nominal"] or {"tasks": []})["tasks"]:
        cells[task["task"], task["task"]] = f"({task['successes']}/{task['rollouts']})"
    states, told = (sorted({pair[side] for pair in cells}) for side in (0, 1))
    rows = [[str(state), *(cells.get((state, task), "-") for task in told)] for state in states]
    return table(("state of \\ told", *map(str, told)), rows)


def _rows(title: str, note: str, head: Sequence[str], rows: Sequence[Sequence[int]], tasks: Sequence[str]) -> list[str]:
    """Return a section with a row of tasks and a number each; nothing without rows."""
    if not rows:
        return []
    cells = [[*(tasks[task] for task in named), str(number)] for *named, number in rows]
    return [f"## {title}", "", *([*note.splitlines(), ""] if note else []), *table(head, cells), ""]


def _rate(figures: Mapping[str, Any] | None) -> str:
    return figures["total"] if figures else "-"
