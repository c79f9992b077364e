"""``python -m eval.report --run=OUT``: from the runs of ``eval.run`` to a report (Markdown, JSON, plots)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.common.cli import run_command
from eval.common.errors import EvalError, check_labels, check_report_name
from eval.common.files import only_writer
from eval.report.compare import compare, compare_tasks, obstacles, paired_lines, verdict
from eval.report.data import (
    LabeledRun,
    counts,
    enumeration,
    note_text,
    read_runs,
    run_figures,
    steps_to_success,
    write_files,
)
from eval.report.page import rollouts_page
from eval.report.plots import plot_loss, plot_steps, plot_success
from eval.report.reliance_results import with_reliance

PLOTS = ("loss.png", "success.png", "steps.png")


@dataclass
class ReportConfig:
    """Write NAME/report.md, report.json and plots from one run, or from several side by side."""

    # Run folder that eval.run wrote, or several: '[outputs/a, outputs/b]'. A report stands for all runs that are in it:
    # '[eval/results/both, outputs/c]' adds a run to a report without needing the folders of the others.
    run: list[str] | str
    # Folder of the report, inside --reports. The name of the run; of several, their names joined by "_vs_".
    name: str = ""
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Heading. Made from the labels if not given.
    title: str = ""
    # What the report calls each run, for example '[AtlasVLA, ACT]'. If not given, the names of run folders, and what
    # reports call their runs.
    labels: list[str] = field(default_factory=list)
    # Folders that eval.reliance wrote, each of a checkpoint that one of the runs rolled out. Those in a run folder or
    # beside its checkpoint are found without this.
    reliance: list[str] | str = field(default_factory=list)
    # Markdown file with remarks by hand, inserted as it is. If not given, those of the report that is replaced are
    # kept; an empty file removes them.
    note: Path | None = None

    def read(self) -> list[LabeledRun]:
        """Read the runs, each with its label and its result of ``eval.reliance``, if one is given.

        Raises:
            EvalError: If a run can't be read or has no finished rollouts, labels and runs do not go together, or a
                result of eval.reliance is of none of their checkpoints.
        """
        paths = [self.run] if isinstance(self.run, str) else self.run
        if not paths:
            raise EvalError("--run=[] must name at least one run folder or report.")
        entries = [entry for path in paths for entry in read_runs(Path(path))]
        labels = self.labels or [entry.label for entry in entries]
        if len(labels) != len(entries):
            known = ", ".join(entry.label for entry in entries)
            raise EvalError(f"--labels={labels} must be {len(entries)}, one for each run of --run: {known}.")
        check_labels("labels", labels)
        given = [self.reliance] if isinstance(self.reliance, str) else self.reliance
        entries = with_reliance(entries, [Path(path) for path in given])
        return [replace(entry, label=label) for entry, label in zip(entries, labels, strict=True)]

    def folder(self, entries: Sequence[LabeledRun]) -> Path:
        """Return where the report goes.

        Raises:
            EvalError: If the name is not that of a folder.
        """
        name = self.name or "_vs_".join(entry.run.name for entry in entries)
        check_report_name(name, self.reports)
        return self.reports / name


def comparisons(entries: Sequence[LabeledRun]) -> list[dict[str, Any]]:
    """Compare the first run with each other one, for ``report.json``, or say why they can't be compared."""
    first, *others = entries
    found = []
    for other in others:
        pair = {"a": first.label, "b": other.label, "obstacles": obstacles(first.run, other.run)}
        if not pair["obstacles"]:
            result = compare(first.run.rollouts, other.run.rollouts)
            pair |= {
                "verdict": verdict(first.label, other.label, result),
                "paired": paired_lines(first.label, other.label, result),
                **result.as_json(),
                "tasks": [
                    {"suite": suite, "task_id": task_id, **of_task.as_json()}
                    for (suite, task_id), of_task in compare_tasks(first, other).items()
                ],
            }
        found.append(pair)
    return found


def automatic_title(entries: Sequence[LabeledRun]) -> str:
    """Return, for example, ``LIBERO rollouts, objects displaced by up to 8 cm: AtlasVLA and ACT``."""
    displacements = {entry.displacement for entry in entries}
    if len(displacements) == 1:
        (displacement,) = displacements
        common = f", objects displaced by {displacement}" if displacement else ""
        return f"LIBERO rollouts{common}: {enumeration([entry.label for entry in entries])}"
    names = [f"{e.label} (objects displaced by {e.displacement})" if e.displacement else e.label for e in entries]
    return f"LIBERO rollouts: {enumeration(names)}"


def report_content(entries: Sequence[LabeledRun], title: str, note: str) -> dict[str, Any]:
    """Return the content of ``report.json``; its own figures are those of the first run."""
    figures = [run_figures(entry) for entry in entries]
    own = {key: figures[0][key] for key in ("total", "successes", "rollouts", "rate", "interval")}
    return {
        "title": title or automatic_title(entries),
        **own,
        "incomplete": [f"{entry.label}: {entry.incomplete}" for entry in entries if entry.incomplete],
        "note": note,
        "runs": figures,
        "comparisons": comparisons(entries),
    }


def write_plots(entries: Sequence[LabeledRun], folder: Path) -> list[str]:
    """Write the plots there is something for, remove those of an earlier report there is nothing for.

    Returns:
        Names of the files written.
    """
    written = ["success.png"]
    tasks = sorted({task for entry in entries for task in entry.by_task()})
    rates = {}
    for entry in entries:
        by_task = entry.by_task()
        of_run = [counts(by_task[task]) if task in by_task else None for task in tasks]
        rates[entry.label] = [*of_run, entry.counts] if len(tasks) > 1 else of_run
    names = [f"{suite} {task_id}" for suite, task_id in tasks]
    plot_success([*names, "all"] if len(tasks) > 1 else names, rates, folder / "success.png")
    curves = {entry.label: (entry.run.training or {}).get("loss_curve") for entry in entries}
    if found := {label: curve for label, curve in curves.items() if curve}:
        plot_loss(found, folder / "loss.png")
        written.append("loss.png")
    steps = {entry.label: steps_to_success(entry.run.rollouts) for entry in entries}
    if found := {label: values for label, values in steps.items() if values}:
        plot_steps(found, folder / "steps.png")
        written.append("steps.png")
    for name in PLOTS:
        if name not in written:
            (folder / name).unlink(missing_ok=True)
    return written


def write_report(cfg: ReportConfig) -> tuple[Path, dict[str, Any]]:
    """Write the report; every file is replaced as a whole.

    Returns:
        ``report.md`` and the content of ``report.json``.

    Raises:
        EvalError: As :meth:`ReportConfig.read`, or if another process is writing the report.
        OSError: If a file can't be read or written.
    """
    entries = cfg.read()
    folder = cfg.folder(entries)
    with only_writer(folder, "--name"):
        content = report_content(entries, cfg.title, note_text(cfg.note, folder, "rollouts"))
        plots = write_plots(entries, folder)
        return write_files(folder, "rollouts", content, rollouts_page(entries, content, plots)), content


def run(cfg: ReportConfig, _: str) -> None:
    """Write a report, also of an incomplete run; the last line of output is the (first) run's total."""
    file, content = write_report(cfg)
    lines = [*content["incomplete"], f"report: {file}", f"total: {content['total']}"]
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for an error that the message explains, 2 for a flag that does not parse."""
    return run_command("eval.report", ReportConfig, run, argv)
