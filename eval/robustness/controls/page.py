"""``report.md`` of policies beside controls."""

from eval.common.markdown import notes, table
from eval.common.statistics import format_rate, rate_of
from eval.report.page import INTERVAL_NOTE, provenance_lines
from eval.robustness.benchmark_report import CLEAN_NOTE, PAIRED, PLOT, clean_text, figures
from eval.robustness.controls.comparison import Pair, Table

HOW = """All figures are over the tasks that every policy and control here has done. *Beats* means that the 95 %
interval of the paired difference (Newcombe 1998, method 10) lies above 0; of twenty such intervals without any
difference about one excludes 0. McNemar's exact test is beside it. Training-seed noise is in neither."""
INSTRUCTION = """The same policy on the same tasks, told the training instruction of another task of the suite
(`--prompt=other_task`; drawn with the seed, recorded with each rollout). A control, not a result on the benchmark: one
who reads the instruction fails."""


def page_of(report: Table, note: str) -> str:
    """Return the Markdown report of ``eval.robustness``: success of policies beside controls, paired differences.

    Args:
        report: What it says.
        note: Remarks by hand.
    """
    settings = report.policies[0].run.settings
    shared = len(report.groups["total"])
    lines = [f"# {report.benchmark.name}: policies beside controls", ""]
    if unfinished := report.unfinished():
        lines += [f"> **incomplete: {', '.join(unfinished)}. These figures are preliminary.**", ""]
    lines += [f"- rollouts that all have: {shared}"]
    lines += [f"- left out of {label}: {count}" for label, count in report.left_out().items() if count]
    bases = settings.get("base_tasks")
    lines += [f"- base tasks: {', '.join(bases)} only"] if bases else []
    lines += [f"- suites: {', '.join(settings['suites'])}; prompt: {settings['prompt']}", ""]
    if limit_cm := settings["displace_cm"]:
        lines += [f"All objects displaced by up to {limit_cm:g} cm along x and y: **not the benchmark.**", ""]
    lines += ["## Does the policy beat its controls?", "", *(f"- {sentence}" for sentence in report.sentences()), ""]
    lines += [*HOW.splitlines(), "", *report.benchmark.reading.splitlines(), ""]
    lines += notes(note)
    lines += ["## Success", "", *_rates(report, clean=False), "", f"![success]({PLOT})", ""]
    lines += ["## Paired, rollout by rollout", "", *_pairs(report), ""]
    lines += _instruction_lines(report)
    clean = CLEAN_NOTE.format(retreat_steps=settings["retreat_steps"])
    lines += ["## Clean success", "", *_rates(report, clean=True), "", *clean.splitlines(), ""]
    lines += ["## Policies", "", *_policies(report), "", *INTERVAL_NOTE.splitlines(), ""]
    for entry in report.entries:
        lines += provenance_lines(entry)
    return "\n".join(lines).rstrip() + "\n"


def _rates(report: Table, *, clean: bool) -> list[str]:
    rows = []
    for group in report.groups:
        found = [figures(report.rollouts(entry, group)) for entry in report.entries]
        shown = [clean_text(one) if clean else rate_of(one) for one in found]
        rows.append([report.label_of(group), *shown])
    return table(["", *(entry.label for entry in report.entries)], rows)


def _pairs(report: Table) -> list[str]:
    rows = [
        [report.label_of(group), policy.label, pair.control, *_cells(pair)]
        for group in report.groups
        for policy in report.policies
        for pair in report.pairs(group, policy)
    ]
    head = ["", "policy", "control", PAIRED, "both", "only the policy", "only the control", "neither", "McNemar's p"]
    return table(head, rows)


def _cells(pair: Pair) -> list[str]:
    result = pair.result
    counts = (result.both, result.only_a, result.only_b, result.neither)
    return [pair.difference, *map(str, counts), f"{result.p_value:.3g}"]


def _instruction_lines(report: Table) -> list[str]:
    pairs = report.instruction_pairs()
    if not pairs:
        return []
    rows = []
    sentences = []
    for group, pair in pairs:
        result = pair.result
        own, other = result.both + result.only_a, result.both + result.only_b
        rates = [format_rate(count, result.shared) for count in (own, other)]
        rows.append([report.label_of(group), pair.policy, *rates, pair.difference, f"{result.p_value:.3g}"])
        reads = (
            f"{pair.policy} reads the instruction" if pair.sign > 0 else f"nothing shows that {pair.policy} reads it"
        )
        sentences.append(f"- {report.label_of(group)}: {reads} ({pair.difference}).")
    head = ["", "policy", "the task's instruction", "another task's", PAIRED, "McNemar's p"]
    lines = ["## With another task's instruction", "", *sentences, "", *table(head, rows), ""]
    return [*lines, *INSTRUCTION.splitlines(), ""]


def _policies(report: Table) -> list[str]:
    rows = []
    for role, entries in (("policy", report.policies), ("control", report.controls)):
        for entry in entries:
            run = entry.run
            size = f"{run.settings['image_size']} px" if run.settings["cameras"] else "-"
            rows.append([entry.label, role, run.policy["type"], entry.looks_at, size, run.policy["checkpoint"]])
    return table(["", "role", "type", "looks at", "images", "checkpoint"], rows)
