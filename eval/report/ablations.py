"""``python -m eval.ablations``: what each part is worth, from runs of several variants at several training seeds.

Reads run folders of ``eval.run``; the first variant is the reference that the others are compared with.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.common.cli import run_command
from eval.common.errors import EvalError, check_labels, check_report_name
from eval.common.files import only_writer
from eval.common.markdown import notes, table
from eval.common.statistics import format_difference, format_rate, newcombe_difference
from eval.report.compare import obstacles
from eval.report.data import (
    LabeledRun,
    counts,
    labeled,
    note_text,
    rate_figures,
    run_figures,
    write_files,
)
from eval.report.page import provenance_lines, reliance_lines
from eval.report.plots import plot_success
from eval.report.reliance_results import with_reliance
from eval.rollout.run_folder import read_run

KIND = "ablations"
READING = """Intervals are 95 % intervals over rollouts: Wilson's of a rate, Newcombe's of a difference (unpaired, all
seeds together). They do not contain what another training seed would change. A variant is therefore called *worse* or
*better* only if 0 lies outside the interval of the difference **and** every one of its training seeds is on that side
of every seed of the reference; everything else is *not shown*."""


@dataclass
class AblationsConfig:
    """Write NAME/report.md, report.json and a plot from runs of several variants."""

    # Run folders that eval.run wrote: '[outputs/a, outputs/b]'.
    runs: list[Path]
    # The variant of each run, in the same order; the first one named is the reference.
    variants: list[str] = field(default_factory=list)
    # Folder of the report, inside --reports.
    name: str = "ablations"
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Heading.
    title: str = "Ablations"
    # Markdown file with remarks by hand. If not given, those of the report that is replaced are kept.
    note: Path | None = None

    def read(self) -> dict[str, dict[int, LabeledRun]]:
        """Read the runs by variant, in the order given, and by training seed.

        Raises:
            EvalError: If a folder is no run folder, or runs and variants do not go together or can't be compared.
        """
        if len(self.variants) != len(self.runs):
            raise EvalError(f"--variants must be {len(self.runs)}, one for each of --runs, got {len(self.variants)}.")
        if len(set(self.variants)) < 2:
            raise EvalError(f"--variants must name a reference and something else, got {self.variants}.")
        check_labels("variants", sorted(set(self.variants)))
        check_report_name(self.name, self.reports)
        found: dict[str, dict[int, LabeledRun]] = {}
        for variant, folder in zip(self.variants, self.runs, strict=True):
            run = read_run(folder)
            seed = (run.training or {}).get("seed")
            if seed is None:
                raise EvalError(f"{folder}: its checkpoint does not say with which seed it was trained (--runs).")
            if seed in found.setdefault(variant, {}):
                raise EvalError(f"{variant!r} has two runs of training seed {seed}; {folder} is the second (--runs).")
            (found[variant][seed],) = with_reliance([labeled(f"{variant}, seed {seed}", run)], [])
        first = next(iter(next(iter(found.values())).values()))
        for by_seed in found.values():
            for entry in by_seed.values():
                if different := obstacles(first.run, entry.run):
                    raise EvalError(f"{entry.label} can't be compared with {first.label}: {'; '.join(different)}.")
        return found


def pooled(by_seed: Mapping[int, LabeledRun]) -> tuple[int, int]:
    """Return the numbers of successes and rollouts of all training seeds."""
    pairs = [entry.counts for entry in by_seed.values()]
    return sum(successes for successes, _ in pairs), sum(rollouts for _, rollouts in pairs)


def _rates(by_seed: Mapping[int, LabeledRun]) -> list[float]:
    return [successes / rollouts for successes, rollouts in (entry.counts for entry in by_seed.values())]


def verdict(reference: Mapping[int, LabeledRun], variant: Mapping[int, LabeledRun]) -> dict[str, Any]:
    """Return the difference to the reference in [-1, 1], its interval, and whether it shows something (``READING``)."""
    difference, low, high = newcombe_difference(*pooled(variant), *pooled(reference))
    ours, theirs = _rates(variant), _rates(reference)
    words = "not shown"
    if high < 0 and max(ours) < min(theirs):
        words = "worse"
    elif low > 0 and min(ours) > max(theirs):
        words = "better"
    return {"difference": difference, "low": low, "high": high, "verdict": words}


def content_of(variants: Mapping[str, Mapping[int, LabeledRun]], cfg: AblationsConfig, note: str) -> dict[str, Any]:
    """Return the content of ``report.json``; its own figures are those of the reference."""
    reference, *_ = variants
    figures = []
    for variant, by_seed in variants.items():
        compared = {} if variant == reference else {"to_reference": verdict(variants[reference], by_seed)}
        runs = [{"training_seed": seed, **run_figures(entry)} for seed, entry in by_seed.items()]
        figures.append({"variant": variant, **rate_figures(*pooled(by_seed)), **compared, "runs": runs})
    unfinished = [
        f"{entry.label}: {entry.incomplete}"
        for by_seed in variants.values()
        for entry in by_seed.values()
        if entry.incomplete
    ]
    head = {"title": cfg.title} | rate_figures(*pooled(variants[reference]))
    return head | {"reference": reference, "incomplete": unfinished, "note": note, "variants": figures}


def ablations_page(variants: Mapping[str, Mapping[int, LabeledRun]], content: Mapping[str, Any]) -> str:
    """Return the Markdown report of ``eval.ablations``: each variant's success rates, compared with the reference."""
    reference = content["reference"]
    lines = [f"# {content['title']}", ""]
    for line in content["incomplete"]:
        lines += [f"> **{line} rollouts are finished. These figures are preliminary.**", ""]
    lines += [f"total: {content['variants'][0]['total']} ({reference}, all training seeds)", ""]
    seeds = sorted({seed for by_seed in variants.values() for seed in by_seed})
    rows = []
    for figures, by_seed in zip(content["variants"], variants.values(), strict=True):
        single = [format_rate(*by_seed[seed].counts) if seed in by_seed else "-" for seed in seeds]
        compared = figures.get("to_reference")
        against = (
            (format_difference(compared["difference"], compared["low"], compared["high"]), compared["verdict"])
            if compared
            else ("", "reference")
        )
        rows.append((figures["variant"], *single, figures["total"], *against))
    head = ("variant", *(f"training seed {seed}" for seed in seeds), "together", f"minus {reference}", "")
    lines += [*table(head, rows), "", *READING.splitlines(), "", "![success](success.png)", ""]
    lines += notes(content["note"])
    lines += ["## Tasks", "", "All training seeds together.", "", *task_lines(variants), ""]
    lines += reliance_lines([entry for by_seed in variants.values() for entry in by_seed.values()])
    for by_seed in variants.values():
        for entry in by_seed.values():
            lines += provenance_lines(entry)
    return "\n".join(lines)


def task_lines(variants: Mapping[str, Mapping[int, LabeledRun]]) -> list[str]:
    """Return the success of every variant by task."""
    by_task = {
        variant: {
            task: [rollout for entry in by_seed.values() for rollout in entry.by_task().get(task, [])]
            for task in sorted({task for entry in by_seed.values() for task in entry.by_task()})
        }
        for variant, by_seed in variants.items()
    }
    tasks = list(next(iter(by_task.values())))
    rows = [(variant, *(format_rate(*counts(of[task])) for task in tasks)) for variant, of in by_task.items()]
    return table(("variant", *(f"{suite} {task_id}" for suite, task_id in tasks)), rows)


def write_report(cfg: AblationsConfig) -> tuple[Path, dict[str, Any]]:
    """Write the report; every file is replaced as a whole.

    Returns:
        ``report.md`` and the content of ``report.json``.

    Raises:
        EvalError: As :meth:`AblationsConfig.read`, or if another process is writing the report.
        OSError: If a file can't be read or written.
    """
    variants = cfg.read()
    folder = cfg.reports / cfg.name
    seeds = sorted({seed for by_seed in variants.values() for seed in by_seed})
    rates = {
        f"training seed {seed}": [by_seed[seed].counts if seed in by_seed else None for by_seed in variants.values()]
        for seed in seeds
    }
    with only_writer(folder, "--name"):
        content = content_of(variants, cfg, note_text(cfg.note, folder, KIND))
        plot_success(list(variants), rates, folder / "success.png")
        return write_files(folder, KIND, content, ablations_page(variants, content)), content


def run(cfg: AblationsConfig, _: str) -> None:
    """Write a report; the last lines of output are the variants."""
    file, content = write_report(cfg)
    sys.stdout.write(f"report: {file}\n")
    for figures in content["variants"]:
        found = figures.get("to_reference", {"verdict": "reference"})["verdict"]
        sys.stdout.write(f"{figures['variant']}: {figures['total']}, {found}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for an error that the message explains, 2 for a flag that does not parse."""
    return run_command("eval.ablations", AblationsConfig, run, argv)
