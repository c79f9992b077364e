"""``python -m eval.results_table``: the tables of all reports, each between two marks of its page.

They are all those of eval/README.md, and docs/tasks.md, task by task (:mod:`eval.report.tasks_page`). Reads
``eval/results/*/report.json``: of kind ``rollouts``, from ``eval.report``, and ``camera_shift``, whose ``points`` have
``label``, ``direction``, ``shift`` (0: not shifted), ``successes`` and ``rollouts``, and which says with ``complete``
whether no point is missing, and ``ablations``, from ``eval.ablations``.
Reports with an entry ``superseded``, which says what they can't show, are only linked.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.markdown import table
from eval.common.statistics import format_difference, rate_of
from eval.report.data import REPORT_FILE, read_report
from eval.report.tasks_page import tasks_block
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.utils.cli import exit_status

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
REPORTS = Path("eval/results")
NONE_YET = "No reports of `eval.report` yet."
_HEAD = ("report", "policy", "training", "tasks", "rollouts", "success, 95 % Wilson interval", "render quality, assets")
_ABLATION_HEAD = ("ablations", "variant", "training seeds", "success", "minus the reference", "")
_SHIFT_HEAD = ("camera-shift report", "policy", "success unshifted", "success at the largest shifts")


def results_block(reports: Path, page: Path) -> str:
    """Return the tables, with links that work from a page.

    Args:
        reports: Folder of all reports.
        page: Where the tables are shown.

    Raises:
        EvalError: If a ``report.json`` cannot be read, or lacks something.
    """
    rows, shift_rows, ablation_rows, old = [], [], [], []
    for name, file, content in _reports(reports, page):
        if "superseded" in content:
            old.append(name)
            continue
        with _naming(file):
            if content["kind"] == "rollouts":
                rows += [(name, *_run_cells(run)) for run in content["runs"]]
            elif content["kind"] == "camera_shift":
                shift_rows += [(name, *cells) for cells in _shift_cells(content)]
            elif content["kind"] == "ablations":
                ablation_rows += [(name, *cells) for cells in _ablation_cells(content)]
    lines = table(_HEAD, rows) if rows else [NONE_YET]
    if shift_rows:
        lines += ["", *table(_SHIFT_HEAD, shift_rows)]
    if ablation_rows:
        lines += ["", *table(_ABLATION_HEAD, ablation_rows)]
    if old:
        lines += ["", f"Older reports, each headed by what it can't show: {', '.join(old)}."]
    return "\n".join(lines)


def _reports(reports: Path, page: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Yield a link that works from the page, the file, and the content of each report."""
    for file in sorted(reports.glob(f"*/{REPORT_FILE}")):
        link = Path(os.path.relpath(file.with_name("report.md"), page.parent)).as_posix()
        yield f"[{file.parent.name}]({link})", file, read_report(file)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EvalError(f"{file} lacks something that the table of results shows: {error!r}.") from error


def _run_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    training = run["training"] or {}
    trained = [
        f"{training[key]:,} {unit}"
        for key, unit in (("steps", "steps"), ("episodes", "episodes"), ("minutes", "minutes"))
        if training.get(key) is not None
    ]
    policy, asked = run["policy"]["type"], run["rollouts_asked"]
    done = run["rollouts"]
    tasks: dict[str, list[str]] = {}
    for task in run["tasks"]:
        tasks.setdefault(task["suite"], []).append(str(task["task_id"]))
    assets = run["simulator"]["assets"]
    # Reports made before objects could be displaced do not say that they were not.
    displaced = f", displaced by up to {limit:g} cm" if (limit := run["settings"].get("displace_cm")) else ""
    return (
        run["label"] if run["label"] == policy else f"{run['label']} ({policy})",
        ", ".join(trained) or "not recorded",
        "; ".join(f"{suite} {', '.join(ids)}" for suite, ids in tasks.items()) + displaced,
        str(done) if done == asked else f"{done}, incomplete: {done} of {asked}",
        run["total"],
        # A replacement is told in full in the report; here a reader only has to see that there is one.
        f"{run['settings']['look']}, {assets}{', with replacements' if run['simulator'].get('assets_note') else ''}",
    )


def _shift_cells(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    points = [point for point in content["points"] if point["rollouts"]]
    for label in dict.fromkeys(point["label"] for point in points):
        of_label = [point for point in points if point["label"] == label]
        unshifted = next((rate_of(point) for point in of_label if point["shift"] == 0), "-")
        far = [
            f"{point['direction']} {point['shift']:+g}: {rate_of(point)}"
            for direction in dict.fromkeys(point["direction"] for point in of_label if point["shift"])
            for point in _extremes([point for point in of_label if point["direction"] == direction])
        ]
        name = label if content["complete"] else f"{label}, incomplete"
        cells.append((name, unshifted, "<br>".join(far) or "-"))
    return cells


def _ablation_cells(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for figures in content["variants"]:
        against = ("", "reference")
        if compared := figures.get("to_reference"):
            interval = format_difference(compared["difference"], compared["low"], compared["high"])
            against = (interval, compared["verdict"])
        name = f"{figures['variant']}, incomplete" if content["incomplete"] else figures["variant"]
        cells.append((name, str(len(figures["runs"])), figures["total"], *against))
    return cells


def _extremes(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The largest shift to either side, where there is one."""
    farthest = {min(0, *(point["shift"] for point in points)), max(0, *(point["shift"] for point in points))}
    return [point for point in points if point["shift"] and point["shift"] in farthest]


PAGES = {Path("eval/README.md"): results_block, Path("docs/tasks.md"): tasks_block}
"""What stands between the marks of each page."""


def updated(root: Path, page: Path) -> tuple[str, str]:
    """Return the text of a page as it is, and as it should be.

    Args:
        root: Root of the repository.
        page: One of :data:`PAGES`.

    Raises:
        EvalError: If the page does not have both marks once, in order, or a report cannot be read.
    """
    file = root / page
    text = file.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise EvalError(f"{file} must have {BEGIN} and then {END}, each once, around the table of results.")
    return text, f"{text[: begin + len(BEGIN)]}\n{PAGES[page](root / REPORTS, file)}\n{text[end:]}"


def main(argv: list[str] | None = None, root: Path = Path()) -> int:
    """Bring the tables of the repository at ``root`` up to date, or say which are not.

    Returns:
        Exit status: 0 if they are up to date now, 1 if not or for an error, 2 for a wrong flag.
    """
    # Not draccus, whose flags all need a value.
    parser = argparse.ArgumentParser(prog="python -m eval.results_table", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if a table is not up to date"
    )
    arguments = parser.parse_args(argv)
    return exit_status("results_table", lambda: update(root, check=arguments.check), errors=(EvalError, OSError))


def update(root: Path, *, check: bool) -> int:
    """Bring the tables up to date, or only say which are not; return the exit status of the command."""
    pages = {root / page: updated(root, page) for page in PAGES}
    stale = {page: after for page, (before, after) in pages.items() if before != after}
    if check:
        for page in stale:
            sys.stderr.write(f"results_table: {page} is not up to date; run python -m eval.results_table\n")
        return 1 if stale else 0
    for page, after in stale.items():
        write_text(page, after)
        sys.stdout.write(f"{page} is up to date now\n")
    return 0
