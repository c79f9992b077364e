"""``report.md``: everything of a report in words, tables and plots."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from eval.common.markdown import facts, notes, table
from eval.common.statistics import format_difference, format_rate, mean_over_seeds
from eval.report.data import LabeledRun, counts, steps_to_success
from eval.report.reliance_results import NOT_MEASURED, interval_text, part
from eval.rollout.run_folder import Rollout
from lerobot_atlasvla.inspection.reliance import BLOCKS_AS_NOISE, BLOCKS_REMOVED, IMAGES, INSTRUCTION, STATE

INTERVAL_NOTE = """Intervals are 95 % Wilson score intervals over the rollouts of one trained policy. What another
training seed would change is not in them: training-seed noise comes on top."""
SEEDS_NOTE = """Every seed starts from the same fixed initial states: rollouts of different seeds depend on each other.
The more states come out the same at every seed, the more the interval of the total is too narrow."""
TASKS_NOTE = "Of twenty tasks without any difference, about one would look as if there were one."
RELIANCE_NOTE = """Change of the executed actions, in standard deviations, when the part is replaced by another
episode's (`eval.reliance`); 0 is a part that the policy does not use. Intervals are 95 %, over episodes."""
RELIANCE_COLUMNS = {
    IMAGES: "images",
    STATE: "state",
    INSTRUCTION: "instruction",
    BLOCKS_AS_NOISE: "blocks as noise",
    BLOCKS_REMOVED: "blocks removed",
}
BLOCKS = (BLOCKS_AS_NOISE, BLOCKS_REMOVED)
VIDEOS_NOTE = "videos/... are in the run folder; they are not in the repository."


def rollouts_page(entries: Sequence[LabeledRun], content: Mapping[str, Any], plots: Sequence[str]) -> str:
    """Return the report as Markdown.

    Args:
        entries: Runs, the most important one first.
        content: Content of ``report.json``.
        plots: Names of the plots beside the report.
    """
    lines = [f"# {content['title']}", ""]
    for line in content["incomplete"]:
        lines += [f"> **{line} rollouts are finished. These figures are preliminary.**", ""]
    lines += [f"total: {content['total']}", ""]
    if len(entries) > 1:
        rows = [(entry.label, entry.run.policy["type"], f"total: {entry.total}") for entry in entries]
        lines += [*table(("run", "policy", "success, 95 % interval"), rows), ""]
    # A heading made by hand may not say it.
    lines += [
        line
        for entry in entries
        if entry.displacement
        for line in (f"{entry.label}: all objects displaced by {entry.displacement} along x and along y.", "")
    ]
    lines += [*INTERVAL_NOTE.splitlines(), ""]
    lines += reliance_lines(entries)
    lines += notes(content["note"])
    lines += ["## Tasks", "", *task_table(entries), "", "![success](success.png)", ""]
    lines += [line for pair in content["comparisons"] for line in comparison_lines(pair)]
    lines += [line for entry in entries if len(entry.by_seed()) > 1 for line in seed_lines(entry)]
    if "steps.png" in plots:
        lines += ["## Steps to success", "", "![steps to success](steps.png)", ""]
    lines += [line for entry in entries for line in failure_lines(entry)]
    if "loss.png" in plots:
        lines += ["## Training loss", "", "![training loss](loss.png)", ""]
    lines += [line for entry in entries for line in provenance_lines(entry)]
    return "\n".join(lines)


def reliance_lines(entries: Sequence[LabeledRun]) -> list[str]:
    """Show what the policy of each run relies on, one row per run; a run without a measurement says so."""
    names = list(RELIANCE_COLUMNS)
    if not any(part(entry.reliance, name) for entry in entries if entry.reliance for name in BLOCKS):
        # Policies of other types have no such blocks.
        names = [name for name in names if name not in BLOCKS]
    rows = []
    for entry in entries:
        reliance = entry.reliance
        cells = [NOT_MEASURED] * len(names) if reliance is None else [_reliance_cell(reliance, name) for name in names]
        frames = "" if reliance is None else f"{len(reliance['episodes'])} episodes: {reliance['episodes_are']}"
        rows.append((entry.label, *cells, frames))
    head = ("run", *(RELIANCE_COLUMNS[name] for name in names), "measured on")
    return ["## Reliance", "", *table(head, rows), "", *RELIANCE_NOTE.splitlines(), ""]


def _reliance_cell(reliance: Mapping[str, Any], name: str) -> str:
    found = part(reliance, name)
    if found is None:
        return "none"
    return found["reason"] or interval_text(found["action_change"])


def task_table(entries: Sequence[LabeledRun]) -> list[str]:
    """Return one row per task that any of the runs has, runs side by side."""
    by_task = [entry.by_task() for entry in entries]
    prefixes = [f"{entry.label}: " if len(entries) > 1 else "" for entry in entries]
    columns = [f"{prefix}{of}" for prefix in prefixes for of in ("success, 95 % interval", "steps, median [min-max]")]
    rows = []
    for task in sorted({task for tasks in by_task for task in tasks}):
        instruction = next(tasks[task][0].instruction for tasks in by_task if task in tasks)
        cells = [cell for tasks in by_task for cell in _success_cells(tasks.get(task, []))]
        rows.append((task[0], str(task[1]), instruction, *cells))
    if len(rows) > 1:
        rows.append(("all", "", "", *(cell for entry in entries for cell in _success_cells(entry.run.rollouts))))
    return table(("suite", "task", "instruction", *columns), rows)


def _success_cells(rollouts: Sequence[Rollout]) -> tuple[str, str]:
    if not rollouts:
        return "-", "-"
    steps = steps_to_success(rollouts)
    spread = f"{statistics.median(steps):g} [{min(steps)}-{max(steps)}]" if steps else "no success"
    return format_rate(*counts(rollouts)), spread


def comparison_lines(pair: Mapping[str, Any]) -> list[str]:
    """Return the difference of two runs, in total and by task, or why there is none."""
    lines = [f"## {pair['a']} against {pair['b']}", ""]
    if pair["obstacles"]:
        return [*lines, "Not compared, because they differ in", "", *(f"- {line}" for line in pair["obstacles"]), ""]
    lines += [f"**{pair['verdict']}**", "", "Interval: Newcombe's hybrid score interval, 95 %, unpaired.", ""]
    lines += [line for text in pair["paired"] for line in (text, "")]
    rows = [
        (
            f"{one['suite']} {one['task_id']}",
            format_difference(one["difference"], one["low"], one["high"]),
            "noise" if one["noise"] else f"{pair['a'] if one['difference'] > 0 else pair['b']} ahead",
            f"{one['both']} / {one['only_a']} / {one['only_b']} / {one['neither']}",
        )
        for one in pair["tasks"]
    ]
    head = ("task", f"{pair['a']} minus {pair['b']}", "", f"both / only {pair['a']} / only {pair['b']} / neither")
    return [*lines, *table(head, rows), "", TASKS_NOTE, ""]


def seed_lines(entry: LabeledRun) -> list[str]:
    """Return the total of every seed, their mean, and how much the seeds agree."""
    by_seed = {seed: counts(rollouts) for seed, rollouts in entry.by_seed().items()}
    mean, deviation = mean_over_seeds([successes / rollouts for successes, rollouts in by_seed.values()])
    same, repeated = entry.seed_agreement()
    agreement = f"{same} of {repeated} initial states came out the same at every seed."
    # Otherwise every seed draws placements or displacements of its own.
    repeats = entry.run.settings["init_states"] and not entry.run.settings.get("displace_cm")
    return [
        f"## Seeds of {entry.label}",
        "",
        *table(("seed", "success, 95 % interval"), [(str(seed), format_rate(*of)) for seed, of in by_seed.items()]),
        "",
        f"Mean over {len(by_seed)} seeds: {100 * mean:.1f} %, "
        f"standard deviation {100 * (deviation or 0.0):.1f} points.",
        *((agreement, *SEEDS_NOTE.splitlines()) if repeats else ()),
        "",
    ]


def failure_lines(entry: LabeledRun) -> list[str]:
    """Return every failed rollout: one row each for those with a video, the others by task and seed."""
    failures = entry.failures()
    lines = [f"## Failures of {entry.label}: {len(failures)}", ""]
    if filmed := [rollout for rollout in failures if rollout.video]:
        rows = [
            (f"{r.suite} {r.task_id}", str(r.seed), str(r.init_state), str(r.steps), f"`{entry.run.name}/{r.video}`")
            for r in filmed
        ]
        lines += [*table(("task", "seed", "initial state", "steps", "video"), rows), "", VIDEOS_NOTE, ""]
    others: dict[tuple[str, int, int], list[str]] = {}
    for rollout in failures[len(filmed) :]:
        others.setdefault(rollout.key[:3], []).append(str(rollout.init_state))
    if others:
        rows = [(f"{suite} {task}", str(seed), ", ".join(states)) for (suite, task, seed), states in others.items()]
        lines += ["Without a video:", "", *table(("task", "seed", "initial states"), rows), ""]
    return lines


def provenance_lines(entry: LabeledRun) -> list[str]:
    """Return everything needed to get the figures of a run again."""
    run = entry.run
    training = run.training or {}
    command = training.get("command")
    trained = {
        "steps": training.get("steps"),
        "batch size": training.get("batch_size"),
        "training seed": training.get("seed"),
        "dataset": training.get("dataset", {}).get("repo_id"),
        "episodes trained on": training.get("episodes"),
        "frames": training.get("frames"),
        "minutes": training.get("minutes"),
    }
    settings = {name: value for name, value in run.settings.items() if name not in ("camera_shift", "displace_cm")}
    shifts = [f"{name} {value:g}" for name, value in run.settings["camera_shift"].items() if value]
    seconds = [rollout.wall_s for rollout in run.rollouts]
    return [
        f"## Provenance of {entry.label}",
        "",
        "Training:",
        "",
        *(["```bash", command, "```", ""] if command else ["- command: not recorded"]),
        *(facts(trained) if run.training else ["- the checkpoint says nothing about its training"]),
        *([] if training.get("loss_curve") else ["- loss curve: not recorded"]),
        "",
        "Rollouts:",
        "",
        "```bash",
        run.command,
        "```",
        "",
        *facts(settings),
        f"- camera shift: {', '.join(shifts) or 'none'}",
        f"- displacement of the objects: {entry.displacement or 'none'}",
        f"- seconds per rollout: {statistics.median(seconds):.1f} (median), {sum(seconds):.0f} in all, added up over "
        "workers",
        "",
        "Policy, versions and simulator:",
        "",
        *facts({f"policy {name}": value for name, value in run.policy.items()} | run.versions | run.simulator),
        "",
    ]
