"""The report of ``python -m eval.plus``: per category, level and base task, beside controls and published rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.markdown import table
from eval.common.statistics import rate_of
from eval.robustness import benchmark_report as shared
from eval.robustness.libero_plus.catalog import LEVELS, Catalog
from eval.robustness.libero_plus.names import NAME, SUITE_SUFFIX
from eval.robustness.libero_plus.perturbations.perturbation import ROBOT_STARTS
from eval.robustness.libero_plus.prompts import OTHER_TASK, PROMPTS
from eval.robustness.libero_plus.published import comparable_rows, warnings
from eval.robustness.libero_plus.selection import Selection
from eval.robustness.libero_plus.tasks import ALL_CATEGORIES, LABELS, NEEDS_ASSETS, PlusTask
from eval.rollout.run_folder import Rollout, Run

KIND = "libero_plus"

SHOWS = """All camera, language and noise tasks start from fixed state 0 of their base task and change the scene
camera's image or the sentence only, so a policy that does not look passes camera and noise wherever it solves state
0, and where a scene has one instruction, as in libero_spatial, one that ignores the instruction passes language."""
READING = f"Read every category beside a blind and a wrist-only control (`--controls`).\n{SHOWS}"
LAYOUT = """"layout (level only)" has the tasks that move objects, less than half of the category; the others add
objects (`_add`) and need LIBERO-Plus's own assets, as light and background do. What is not in this report is in
published totals, so they can't be compared with those here."""
OWN_ASSETS = """Light, background and added objects are of the folder that `--plus_assets` named. LIBERO-Plus publishes
no digests of it, so it is checked for what the tasks need, not for what it is."""
CONTROL = """**--prompt=other_task: every task was told another task's instruction. This run is a control for the same
policy's run on the right instructions, not a result on LIBERO-Plus.**"""
LEVEL_NOTE = "Levels are LIBERO-Plus's: they count how many of four policies failed, not the size of the change."


def write_report(run: Run, controls: Sequence[Run], catalog: Catalog) -> Path:
    """Write ``report.json``, ``report.md`` and the plot into the run folder.

    Args:
        run: The run.
        controls: Runs of other policies on the same tasks.
        catalog: LIBERO-Plus's tasks, with levels if the run was made with them.

    Returns:
        ``report.md``.

    Raises:
        EvalError: If the run or a control is of something else, or the levels are not those of the run.
    """
    shared.check_benchmark(run, NAME, "output_dir")
    beside = shared.check_controls(run, controls, NAME)
    if run.settings["task_classification"] != catalog.classification_sha256:
        raise EvalError(
            f"--task_classification: the run in {run.path} was made with "
            f"{'another file' if run.settings['task_classification'] else 'none'}; give the same."
        )
    tasks = {(task.suite + SUITE_SUFFIX, task.number): task for task in catalog.tasks}

    whole = _whole_layout(run)

    def category(rollout: Rollout) -> str:
        found = _task(tasks, rollout).category
        return "layout" if whole and found == "layout_add" else found

    labels = {} if whole else LABELS
    content = _content(run, tasks, _asked(run, catalog), category, labels) | {
        "controls": shared.control_figures(run, beside, category),
        "published": _published(run),
    }
    page = [
        *shared.head_lines(f"{NAME}: {run.name}", run, content),
        *([*CONTROL.splitlines(), ""] if run.settings["prompt"] == OTHER_TASK else []),
        *_convention_lines(run),
        *_category_lines(content),
        *shared.control_lines(content, labels),
        *_published_lines(run, content),
        *_base_lines(content, labels),
        *shared.tail_lines(run, beside),
    ]
    return shared.write_with_plot(run, KIND, beside, content, page, category)


def _task(tasks: Mapping[tuple[str, int], PlusTask], rollout: Rollout) -> PlusTask:
    task = tasks.get((rollout.suite, rollout.task_id))
    if task is None or task.name != rollout.task_name:
        raise EvalError(f"The run has {rollout.task_name} as {rollout.suite} {rollout.task_id}, which is not {NAME}'s.")
    return task


def _whole_layout(run: Run) -> bool:
    """Say whether a run has both halves of LIBERO-Plus's category layout, which are then reported as one."""
    return {"layout", "layout_add"} <= set(run.settings["categories"])


def _asked(run: Run, catalog: Catalog) -> int:
    settings = run.settings
    names = ("suites", "categories", "levels", "task_names", "fraction")
    wanted = Selection(
        **{name: settings[name] for name in names},
        seed=settings["selection_seed"],
        own_assets=True,
        base_tasks=settings.get("base_tasks"),  # older runs have all
    )
    return len(wanted.choose(catalog))


def _content(
    run: Run,
    tasks: Mapping[tuple[str, int], PlusTask],
    asked: int,
    category_of: Callable[[Rollout], str],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    by_category = shared.grouped(run.rollouts, category_of)
    categories: dict[str, dict[str, Any]] = {}
    for category in ALL_CATEGORIES:
        if category not in by_category:
            continue
        levels = shared.grouped(by_category[category], lambda rollout: _task(tasks, rollout).level)
        categories[category] = {
            "label": labels.get(category, category),
            **shared.figures(by_category[category]),
            "levels": {str(level): shared.figures(levels[level]) for level in LEVELS if level in levels},
        }
    bases = shared.grouped(run.rollouts, lambda r: (_task(tasks, r).suite, _task(tasks, r).base))
    suites = shared.grouped(run.rollouts, lambda rollout: _task(tasks, rollout).suite)
    return shared.common_content(run, asked, categories, "task_name") | {
        "robot_start": run.settings["robot_start"],
        "suites": {suite: shared.figures(rollouts) for suite, rollouts in suites.items()},
        "base_tasks": [
            {
                "suite": suite,
                "base_task": base,
                **shared.figures(rollouts),
                "categories": {
                    category: {"successes": sum(r.success for r in of_category), "rollouts": len(of_category)}
                    for category, of_category in shared.grouped(rollouts, category_of).items()
                },
            }
            for (suite, base), rollouts in bases.items()
        ],
    }


def _published(run: Run) -> list[dict[str, Any]]:
    settings = run.settings
    chosen = any(settings.get(name) for name in ("base_tasks", "task_names", "levels"))
    if chosen or settings["displace_cm"] or settings["prompt"] == OTHER_TASK:
        return []  # published rates are over all tasks of LIBERO-Plus, as they are
    return [
        asdict(row) | {"warnings": warnings(row, settings["prompt"], settings["robot_start"])}
        for row in comparable_rows(settings["suites"])
    ]


def _convention_lines(run: Run) -> list[str]:
    settings = run.settings
    part = f"{100 * settings['fraction']:g} % of each suite's category" if settings["fraction"] < 1 else "all tasks"
    bases = settings.get("base_tasks")
    return [
        f"- suites: {', '.join(settings['suites'])}; {part}, one rollout a task",
        *([f"- base tasks: {', '.join(bases)} only"] if bases else []),
        f"- prompt: {settings['prompt']}, {PROMPTS[settings['prompt']]}",
        f"- robot start: {settings['robot_start']}, {ROBOT_STARTS[settings['robot_start']]}",
        "",
    ]


def _category_lines(content: Mapping[str, Any]) -> list[str]:
    categories = content["categories"]
    named = {group["label"]: group for group in categories.values()}
    lines = ["## Categories", "", *shared.figures_table("category", named), "", f"![success]({shared.PLOT})", ""]
    lines += [*READING.splitlines(), ""]
    if set(categories) & {"layout", "layout_add"} and not set(ALL_CATEGORIES) <= set(content["settings"]["categories"]):
        lines += [*LAYOUT.splitlines(), ""]
    if set(content["settings"]["categories"]) & set(NEEDS_ASSETS):
        lines += [*OWN_ASSETS.splitlines(), ""]
    if any(group["levels"] for group in categories.values()):
        rows = [
            [label, *(rate_of(group["levels"].get(str(level))) for level in LEVELS)] for label, group in named.items()
        ]
        lines += ["## Levels", "", *table(["category", *(f"level {level}" for level in LEVELS)], rows), ""]
        lines += [LEVEL_NOTE, ""]
    if len(content["suites"]) > 1:
        lines += ["## Suites", "", *shared.figures_table("suite", content["suites"]), ""]
    return lines


def _base_lines(content: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """LIBERO-Plus has 6 to 49 camera tasks per base task of one suite: a total may be that of a few of them."""
    rows = []
    for entry in content["base_tasks"]:
        parts = (entry["categories"].get(category) for category in content["categories"])
        shown = [f"{part['successes']}/{part['rollouts']}" if part else "-" for part in parts]
        rows.append([f"{entry['suite']}: {entry['base_task'].replace('_', ' ')}", rate_of(entry), *shown])
    head = ["base task", "success", *(labels.get(category, category) for category in content["categories"])]
    return ["## Base tasks", "", *table(head, rows), ""]


def _published_lines(run: Run, content: Mapping[str, Any]) -> list[str]:
    if not content["published"]:
        return []
    columns = ("camera", "robot", "language", "noise", "layout")
    ours = [
        f"{100 * group['rate']:.1f}"
        if (group := content["categories"].get(column)) and group["label"] == column
        else "-"
        for column in columns
    ]
    rows = [[f"**{run.name}** (this run)", "-", *ours, content["prompt"], content["robot_start"], "", ""]]
    for row in content["published"]:
        of_row = [f"{row['categories'][column]:.1f}" if column in row["categories"] else "-" for column in columns]
        total = "-" if row["total"] is None else f"{row['total']:.1f}"
        warned = "; ".join(row["warnings"])
        rows.append([row["policy"], total, *of_row, row["prompt"], row["robot_start"], warned, row["source"]])
    head = ["policy", "total", *columns, "prompt", "robot start", "not comparable because", "source"]
    return [
        "## Published",
        "",
        *table(head, rows),
        "",
        "Percent, as published; nothing of it was run here. Totals and layout have categories and tasks that this run",
        "has not. A repetition with the same policy agreed on 90.8 % of 1,601 tasks (sylvestf/LIBERO-plus#61):",
        "differences below about two points are noise even over all tasks.",
        "",
    ]
