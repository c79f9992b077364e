"""Compute figures of groups of rollouts, and write parts of pages, for the reports of ``eval.plus`` and ``eval.pro``.

``report.json`` depends on the rollouts only, not on the order in which they were finished or how long they took.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.former_flags import flag_of
from eval.common.markdown import table
from eval.common.statistics import format_difference, format_rate, rate_of, wilson_interval
from eval.report.compare import SIMULATOR, compare, differences
from eval.report.data import LabeledRun, write_files
from eval.report.data import counts as counts_of
from eval.report.page import INTERVAL_NOTE, provenance_lines
from eval.report.plots import plot_success
from eval.rollout.run_folder import Rollout, Run

PLOT = "categories.png"
# What a control may differ in: the policy, what it looks at, and how the workers were run.
_OF_A_POLICY = ("n_action_steps", "temporal_ensemble_coeff", "image_size", "cameras")
_OF_A_POLICY += ("threads", "fast_render", "fraction", "suites")

CLEAN_NOTE = """*Clean* successes are those in which, from settling to the last step, nothing moved by more than 1 mm or
turned by more than 1 degree that the task's `:obj_of_interest` does not name: loose objects, and the joints of
cabinets, stoves and the like. The millimeter is PARC 2026's rule, the degree and the joints are ours, and so are the
{retreat_steps} steps after the success (`--retreat_steps`) that stand for the arm's retreat."""

PAIRED = "paired difference [95 % interval]"

Grouping = Callable[[Rollout], Any]


def check_benchmark(run: Run, name: str, flag: str) -> None:
    """Refuse a run folder of something else, or without rollouts.

    Raises:
        EvalError: Naming the flag that led there.
    """
    found = run.settings.get("benchmark", "LIBERO")
    if found != name:
        raise EvalError(f"--{flag}={run.path} holds a run on {found}, not on {name}.")
    if not run.rollouts:
        raise EvalError(f"--{flag}={run.path} has no finished rollouts, so there is nothing to report.")


def check_controls(run: Run, runs: Sequence[Run], name: str) -> list[LabeledRun]:
    """Return the controls, labeled with the names of their folders, or with their paths where two have one name.

    Raises:
        EvalError: As :func:`check_same_tasks`.
    """
    for control in runs:
        check_same_tasks(run, control, name, "controls")
    names = [one.name for one in (run, *runs)]
    return [LabeledRun(one.name if names.count(one.name) == 1 else str(one.path), one) for one in runs]


def check_same_tasks(run: Run, other: Run, name: str, flag: str, but_for: Collection[str] = ()) -> None:
    """Refuse to read a run beside another one that had other tasks.

    Args:
        run: The run.
        other: What is read beside it.
        name: The benchmark's.
        flag: The flag that names the other one, without dashes.
        but_for: Settings, beside those of a policy, that may differ.

    Raises:
        EvalError: If it was made with other settings or another simulator, or shares no rollout.
    """
    check_benchmark(other, name, flag)
    names = [name for name in run.settings if name not in _OF_A_POLICY and name not in but_for]
    differing = differences(names, run.settings, other.settings)
    differing += differences(SIMULATOR, run.simulator, other.simulator, "simulator's ")
    if differing:
        what, ours, theirs = differing[0]
        raise EvalError(
            f"--{flag}={other.path} can't be read beside {run.path}: its {flag_of(what)} is {theirs}, not {ours}. Run "
            "it again with the same settings, or leave it out."
        )
    if not {r.key for r in run.rollouts} & {r.key for r in other.rollouts}:
        raise EvalError(f"--{flag}={other.path} has no rollout in common with {run.path}; leave it out.")


def grouped(rollouts: Iterable[Rollout], by: Grouping) -> dict[Any, list[Rollout]]:
    """Return the rollouts of each group; those whose group is None are left out."""
    groups = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda rollout: rollout.key):
        if (group := by(rollout)) is not None:
            groups[group].append(rollout)
    return dict(groups)


def figures(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return the figures of a group for ``report.json``; rates and intervals are in [0, 1].

    Clean successes, path and jerk are None where they were not measured; path and jerk are means over successes.
    """
    successes = [rollout for rollout in rollouts if rollout.success]
    measured = all(rollout.undisturbed is not None for rollout in rollouts)
    steps = [rollout.steps for rollout in successes]
    return {
        "successes": len(successes),
        "rollouts": len(rollouts),
        "rate": len(successes) / len(rollouts),
        "interval": list(wilson_interval(len(successes), len(rollouts))),
        "clean_successes": sum(bool(rollout.undisturbed) for rollout in successes) if measured else None,
        "steps_to_success": statistics.median(steps) if steps else None,
        "path_m": _mean(rollout.path_m for rollout in successes),
        "jerk_m_s3": _mean(rollout.jerk_m_s3 for rollout in successes),
    }


def common_content(run: Run, asked: int, categories: Mapping[str, Mapping[str, Any]], identity: str) -> dict[str, Any]:
    """Return what every benchmark's ``report.json`` has.

    Args:
        run: The run.
        asked: Rollouts that the settings ask for.
        categories: Figures by category.
        identity: Attribute of a rollout that tells those of one task number apart.
    """
    columns = ("suite", "task_id", identity, "success", "undisturbed", "steps", "path_m", "jerk_m_s3")
    return {
        "name": run.name,
        "benchmark": run.settings["benchmark"],
        "complete": len(run.rollouts) >= asked,
        "rollouts_asked": asked,
        "prompt": run.settings["prompt"],
        "displaced_cm": run.settings["displace_cm"],
        "total": figures(run.rollouts),
        "mean_of_categories": statistics.fmean(float(group["rate"]) for group in categories.values()),
        "categories": categories,
        "policy": run.policy,
        "training": run.training,
        "settings": run.settings,
        "simulator": run.simulator,
        "versions": run.versions,
        "rollout_columns": list(columns),
        "rollout_rows": [
            [getattr(rollout, column) for column in columns]
            for rollout in sorted(run.rollouts, key=lambda rollout: rollout.key)
        ],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None


def clean_text(group: Mapping[str, Any]) -> str:
    """Return the rate of clean successes; a dash where they were not measured."""
    clean = group["clean_successes"]
    return "-" if clean is None else format_rate(clean, group["rollouts"])


def figures_table(head: str, groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table with a row per group: success, clean success, steps, path and jerk."""
    rows = [
        [
            name,
            rate_of(group),
            clean_text(group),
            *(
                f"{group[key]:g}" if group[key] is not None else "-"
                for key in ("steps_to_success", "path_m", "jerk_m_s3")
            ),
        ]
        for name, group in groups.items()
    ]
    columns = (head, "success", "clean success", "steps to success (median)", "path, m", "jerk, m/s^3")
    return table(columns, rows)


def control_figures(run: Run, controls: Sequence[LabeledRun], by: Grouping) -> list[dict[str, Any]]:
    """Return every control's figures by group, and its paired comparison with the run, for ``report.json``."""
    ours = grouped(run.rollouts, by)
    found = []
    for control in controls:
        theirs = grouped(control.run.rollouts, by)
        shared = [group for group in ours if group in theirs]
        found.append(
            {
                "label": control.label,
                "policy": control.run.policy,
                "total": figures(control.run.rollouts),
                "categories": {group: figures(rollouts) for group, rollouts in theirs.items()},
                "paired_total": _pair(run.rollouts, control.run.rollouts),
                "paired": {group: _pair(ours[group], theirs[group]) for group in shared},
            }
        )
    return found


def _pair(ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> dict[str, Any]:
    result = compare(ours, theirs)
    return result.as_json() | {"paired_difference": result.paired}


def control_lines(content: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return the section on the controls; nothing without any.

    Args:
        content: Of ``report.json``.
        labels: What the page calls the groups, where that is not their name.
    """
    lines = []
    for control in content["controls"]:
        rows = []
        for group, pair in {**control["paired"], "total": control["paired_total"]}.items():
            ours = content["total"] if group == "total" else content["categories"][group]
            theirs = control["total"] if group == "total" else control["categories"][group]
            p_value = "-" if pair["p_value"] is None else f"{pair['p_value']:.3g}"
            difference = format_difference(*pair["paired_difference"]) if pair["paired_difference"] else "-"
            row = [labels.get(group, group), rate_of(ours), rate_of(theirs), difference]
            rows.append([*row, str(pair["only_a"]), str(pair["only_b"]), p_value])
        head = ["", content["name"], control["label"], PAIRED, "only the first", "only the second", "McNemar's p"]
        lines += [f"## Beside {control['label']}", "", *table(head, rows), ""]
    return lines


def head_lines(title: str, run: Run, content: Mapping[str, Any]) -> list[str]:
    """Return the page's beginning: title, what is missing, the totals and a mark for displaced objects."""
    lines = [f"# {title}", ""]
    if not content["complete"]:
        done = f"{len(run.rollouts)} of {content['rollouts_asked']}"
        lines += [f"> **incomplete: {done} rollouts are finished. These figures are preliminary.**", ""]
    lines += [f"total: {rate_of(content['total'])}", "", f"clean success: {clean_text(content['total'])}", ""]
    lines += [f"mean of the categories: {100 * content['mean_of_categories']:.1f} %", ""]
    if limit_cm := run.settings["displace_cm"]:
        lines += [f"All objects displaced by up to {limit_cm:g} cm along x and y: **not the benchmark.**", ""]
    return lines


def tail_lines(run: Run, controls: Sequence[LabeledRun]) -> list[str]:
    """Return the page's end: how to read intervals and clean successes, and where the numbers come from."""
    clean = CLEAN_NOTE.format(retreat_steps=run.settings["retreat_steps"])
    lines = [*INTERVAL_NOTE.splitlines(), "", *clean.splitlines(), ""]
    for entry in (LabeledRun(run.name, run), *controls):
        lines += provenance_lines(entry)
    return lines


def write_with_plot(
    run: Run, kind: str, controls: Sequence[LabeledRun], content: Mapping[str, Any], page: Sequence[str], by: Grouping
) -> Path:
    """Write ``report.json``, the plot and ``report.md`` into the run folder; return the last.

    Args:
        run: The run.
        kind: Of the report.
        controls: Shown in the plot.
        content: Of ``report.json``; its ``categories`` are the plot's rows.
        page: Lines of ``report.md``.
        by: Groups the rollouts by category.
    """
    rows = list(content["categories"])
    counts = {}
    for entry in (LabeledRun(run.name, run), *controls):
        groups = grouped(entry.run.rollouts, by)
        counts[entry.label] = [counts_of(groups[row]) if row in groups else None for row in rows]
    plot_success([content["categories"][row].get("label", row) for row in rows], counts, run.path / PLOT)
    return write_files(run.path, kind, content, "\n".join(page).rstrip() + "\n")
