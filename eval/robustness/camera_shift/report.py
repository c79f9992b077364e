"""Turn the grid of ``eval.camera_shift`` into report.md, report.json and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.common.files import only_writer
from eval.common.markdown import facts, table
from eval.common.statistics import format_difference, format_rate
from eval.report.data import LabeledRun, enumeration, rate_figures, write_files
from eval.report.page import provenance_lines, reliance_lines
from eval.report.reliance_results import with_reliance
from eval.robustness.camera_shift.grid import MEANINGS, Point, view_path
from eval.robustness.camera_shift.plots import Measured, plot_shifts, plot_views
from eval.robustness.camera_shift.results import OF_A_POLICY, Counts, Results
from eval.rollout.plan import comparable
from eval.rollout.run_folder import Run

KIND = "camera_shift"
PLOT, VIEWS = "success.png", "views.png"
INTERVALS = """Square brackets are 95 % intervals: Wilson's of a rate, Newcombe's of a difference (noise: 0 lies in it).
They are over rollouts of one trained policy each; what another training seed would give is not in them. Every interval
is of its point alone: among many points, about one in twenty looks like a difference by chance. All points use the
same initial states, so points of one checkpoint go up and down together."""


MIRRORED = """These are the images that the policies get. LeRobot turns the simulator's raw images, which stand on
their heads, by 180 degrees, and so left and right in them are swapped: what a camera moved to its right shows looks as
if it had been moved to the left."""


def write_report(results: Results, folder: Path, note: str = "") -> None:
    """Write report.md, report.json and the plots, each whole or not at all; those of an earlier report are replaced.

    Args:
        results: What to report.
        folder: Folder of the report.
        note: Markdown to put under "Notes" as it is; empty for no such section.

    Raises:
        EvalError: If another process is writing it.
        OSError: If a file cannot be written.
    """
    with only_writer(folder, "--name"):
        _write_files(results, folder, note)


def _write_files(results: Results, folder: Path, note: str) -> None:
    panels = {
        # Of what a direction means, the part that says which way is positive.
        f"{direction}: {MEANINGS[direction].split(';')[1].strip()}": _lines(results, direction)
        for direction in results.grid.sweeps
    }
    plot_shifts(panels, folder / PLOT)
    images = {str(point): view_path(results.output_dir, point) for point in results.grid.extremes()}
    images = {name: file for name, file in images.items() if file.is_file()}
    if images:
        plot_views(images, folder / VIEWS)
    else:
        (folder / VIEWS).unlink(missing_ok=True)
    write_files(folder, KIND, as_json(results, note), markdown(results, note, views=bool(images)))


def _lines(results: Results, direction: str) -> dict[str, Measured]:
    sweep = results.grid.sweep(direction)
    lines: dict[str, Measured] = {}
    for label in results.grid.labels:
        counts = results.finished(label)
        lines[label] = [(point.shift, *counts[point]) for point in sweep if point in counts]
    return lines


def as_json(results: Results, note: str) -> dict[str, Any]:
    """Return everything in the report, for programs. Rates and intervals are in [0, 1]."""
    grid = results.grid
    points, totals, unfinished, differences = [], [], [], []
    for label in grid.labels:
        finished = results.finished(label)
        counts = [results.together(label, of) for of in (grid.points()[1:], *grid.rings())]
        together = [None if of is None else of[0] / of[1] for of in counts]
        totals.append(
            {"label": label, "points": len(finished), "mean_shifted": together[0], "rings": together[1:]}
            | (rate_figures(*results.total(label)) if finished else {})
        )
        for point in grid.points():
            where = {"label": label, "direction": point.direction, "shift": point.shift}
            if point in finished:
                points.append(where | rate_figures(*finished[point]))
            else:
                run = results.runs[label].get(point)
                unfinished.append(where | {"rollouts": len(run.rollouts) if run else 0})
    for point in grid.points():
        if (difference := results.difference(point)) is not None:
            value, low, high = difference
            differences.append(
                {"of": list(grid.labels[:2]), "direction": point.direction, "shift": point.shift}
                | {"difference": value, "interval": [low, high], "verdict": results.verdict(difference)}
            )
    return {
        "title": title(results),
        **rate_figures(*results.total(grid.labels[0])),
        "complete": not unfinished,
        "totals": totals,
        "points": points,
        "unfinished": unfinished,
        "differences": differences,
        "note": note,
        "checkpoints": [
            {"label": label, "policy": run.policy, "training": run.training, "settings": run.settings}
            for label, run in _begun(results).items()
        ],
        **provenance(results),
    }


def _begun(results: Results) -> dict[str, Run]:
    """The first run of every checkpoint that has a finished point."""
    return {
        label: results.runs[label][next(iter(results.finished(label)))]
        for label in results.grid.labels
        if results.finished(label)
    }


def provenance(results: Results) -> dict[str, Any]:
    """Return where the numbers come from; where a grid was continued with other versions, all of them."""
    grid, runs = results.grid, results.all_runs()
    settings = {name: value for name, value in comparable(runs[0].settings).items() if name not in MEANINGS}
    return {
        "command": grid.command,
        "settings": {
            "suites": grid.suites,
            "task_ids": grid.task_ids,
            "seeds": grid.seeds,
            "episodes": grid.episodes,
            "sweeps": grid.sweeps,
            **{name: value for name, value in settings.items() if name not in OF_A_POLICY},
        },
        "versions": _merged([run.versions for run in runs]),
        "simulator": _merged([run.simulator for run in runs]),
    }


def _merged(records: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: ", ".join(dict.fromkeys(str(r[name]) for r in records if name in r)) for name in names}


def title(results: Results) -> str:
    """Return the heading of the report."""
    # The same in every run, or read_results would have refused them.
    displace_cm = results.all_runs()[0].settings.get("displace_cm") or 0
    objects = f" and objects displaced by up to {displace_cm:g} cm" if displace_cm else ""
    return f"Success with the scene camera moved and turned{objects}: {enumeration(results.grid.labels)}"


def markdown(results: Results, note: str, *, views: bool) -> str:
    """Return the report as Markdown.

    Args:
        results: What to report.
        note: Markdown for the section "Notes"; empty for no such section.
        views: Whether there is a plot of the views.
    """
    grid = results.grid
    parts = [f"# {title(results)}"]
    if missing := results.incomplete():
        parts.append(
            f"**incomplete: {', '.join(missing)}.** Points that lack rollouts are left out of all numbers below."
        )
    parts += [f"total: {results.first_total()}", _summary(results)]
    if note.strip():
        parts.append(f"## Notes\n\n{note.rstrip()}")
    parts.append(f"![Success rate over the shift of the scene camera]({PLOT})")
    if views:
        parts.append(f"![Views of the scene camera, unshifted and at the ends of every sweep]({VIEWS})\n\n{MIRRORED}")
    parts.append(
        f"Each point is {grid.rollouts_per_point} rollout(s) per checkpoint. Only the scene camera is displaced, not "
        f"the wrist's; the unshifted point is the same rollouts in every table.\n{INTERVALS}"
    )
    parts += [_sweep_section(results, direction) for direction in grid.sweeps]
    begun = [LabeledRun(label, run) for label, run in _begun(results).items()]
    parts.append("\n".join(reliance_lines(with_reliance(begun, []))).rstrip())
    parts.append(_provenance_section(results))
    return "\n\n".join(parts) + "\n"


def _rate(counts: Counts | None) -> str:
    return format_rate(*counts) if counts and counts[1] else "-"


def _summary(results: Results) -> str:
    rows, rings = [], results.grid.rings()
    header = ["checkpoint", "unshifted", *map(_name, rings)]
    for label in results.grid.labels:
        finished = results.finished(label)
        rows.append([label, _rate(finished.get(Point())), *(_rate(results.together(label, ring)) for ring in rings)])
        if len(rings) > 1:
            rows[-1].append(_rate(results.together(label, results.grid.points()[1:])))
    if len(rings) > 1:
        header.append("all shifted points")
    which = "finished" if len(rows) == 1 else "finished by all checkpoints"
    note = (
        f"Shifted points are counted if {which}: {len(results.common())} are. Rollouts of one initial state at several "
        "points are not independent: intervals of several points are too narrow."
    )
    return "\n".join([*table(header, rows), "", note])


def _name(ring: Sequence[Point]) -> str:
    """Say where the points of a ring are, for example ``right_cm -10, +10; pan_deg -5, +5``."""
    sides: dict[str, list[str]] = {}
    for point in ring:
        sides.setdefault(point.direction, []).append(f"{point.shift:+.12g}")
    return "; ".join(f"{direction} {', '.join(shifts)}" for direction, shifts in sides.items())


def _sweep_section(results: Results, direction: str) -> str:
    labels = results.grid.labels
    compared = len(labels) > 1
    header = [direction, *labels] + ([f"{labels[0]} minus {labels[1]}", "verdict"] if compared else [])
    rows = []
    for point in results.grid.sweep(direction):
        row = [f"{point.shift:+.12g}" if point.shift else "0 (unshifted)"]
        row += [_rate_or_progress(results, label, point) for label in labels]
        if compared:
            difference = results.difference(point)
            row += ["-", "-"] if difference is None else [format_difference(*difference), results.verdict(difference)]
        rows.append(row)
    lines = [f"## {direction}", "", f"{direction}: {MEANINGS[direction]}.", "", *table(header, rows)]
    return "\n".join(lines)


def _rate_or_progress(results: Results, label: str, point: Point) -> str:
    if (counts := results.finished(label).get(point)) is not None:
        return _rate(counts)
    run = results.runs[label].get(point)
    return f"unfinished: {len(run.rollouts) if run else 0} of {results.grid.rollouts_per_point}"


def _provenance_section(results: Results) -> str:
    facts_of_all = provenance(results)
    several = {name: value for name, value in facts_of_all["versions"].items() if ", " in value}
    lines = ["## Provenance", "", "```bash", facts_of_all["command"], "```", ""]
    if several:
        lines += ["The grid was made in several goes, with different versions:", "", *facts(several), ""]
    lines += ["What follows is of each checkpoint's first run; its others differ in the camera shift only.", ""]
    for label, run in _begun(results).items():
        lines += provenance_lines(LabeledRun(label, run))
    return "\n".join(lines).rstrip()
