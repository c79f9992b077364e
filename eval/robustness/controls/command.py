"""``python -m eval.robustness``: policies on LIBERO-Plus or LIBERO-PRO beside controls on the same tasks.

Reads run folders of ``eval.plus`` or ``eval.pro``. A policy means something in a category only where it beats a policy
that does not look (blind) and one that the category does not disturb (wrist-only).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.common.cli import run_command
from eval.common.errors import EvalError, check_labels, check_report_name
from eval.common.former_flags import flag_of
from eval.report.compare import differences
from eval.report.data import note_text, publish
from eval.report.plots import plot_success
from eval.robustness.benchmark_report import PLOT, check_benchmark, check_same_tasks
from eval.robustness.controls.benchmarks import BENCHMARKS, ReportedBenchmark
from eval.robustness.controls.comparison import Entry, table_of
from eval.robustness.controls.page import page_of
from eval.robustness.libero_plus.prompts import OTHER_TASK
from eval.rollout.plan import same_configuration
from eval.rollout.run_folder import Run, read_run


@dataclass
class ControlsConfig:
    """Write NAME/report.md, report.json and a plot: policies beside controls, paired task by task."""

    # Run folders of eval.plus, or of eval.pro, one for each policy: '[outputs/plus_mine, outputs/plus_act]'.
    runs: list[Path]
    # Run folders of the controls on the same tasks, for example of a blind and of a wrist-only policy.
    controls: list[Path]
    # Run folders of eval.plus --prompt=other_task of some of the policies, told apart by their weights: does the policy
    # read the instruction?
    other_task: list[Path] = field(default_factory=list)
    # What the report calls the policies and then the controls, for example '[mine, ACT, blind, wrist-only]'. The names
    # of the run folders if not given.
    labels: list[str] = field(default_factory=list)
    # Folder of the report, inside --reports. libero_plus or libero_pro if not given.
    name: str = ""
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Markdown file with remarks by hand. If not given, those of the report that is replaced are kept.
    note: Path | None = None


def read_entries(cfg: ControlsConfig) -> tuple[list[Entry], list[Entry], list[Entry], ReportedBenchmark]:
    """Read the runs and pair them with their labels.

    Returns:
        Policies, controls, runs on other tasks' instructions (each with the label of its policy), and the benchmark.

    Raises:
        EvalError: If a folder is no such run, was made with other settings, or labels and runs do not go together.
    """
    for flag, paths in (("runs", cfg.runs), ("controls", cfg.controls)):
        if not paths:
            raise EvalError(f"--{flag}=[] must name at least one run folder.")
    found = {flag: [read_run(path) for path in getattr(cfg, flag)] for flag in ("runs", "controls", "other_task")}
    first = found["runs"][0]
    benchmark = BENCHMARKS.get(first.settings.get("benchmark", "LIBERO"))
    if benchmark is None:
        raise EvalError(
            f"--runs={first.path} holds a run on {first.settings.get('benchmark', 'LIBERO')}; allowed: "
            f"{', '.join(BENCHMARKS)}."
        )
    check_benchmark(first, benchmark.name, "runs")
    for flag, run in _with_flags(found):
        if (run.settings.get("prompt") == OTHER_TASK) != (flag == OTHER_TASK):
            right = "runs or --controls" if flag == OTHER_TASK else OTHER_TASK
            raise EvalError(
                f"--{flag}={run.path} was made with --prompt={run.settings.get('prompt')}; name it in --{right}."
            )
        if run is not first:
            # Only the instruction differs, and language alone may have been asked for.
            differing = ("prompt", "categories") if flag == OTHER_TASK else ()
            check_same_tasks(first, run, benchmark.name, flag, differing)
    labels = _labels(cfg, [run.name for run in (*found["runs"], *found["controls"])])
    named = [Entry(label, run) for label, run in zip(labels, (*found["runs"], *found["controls"]), strict=True)]
    policies, controls = named[: len(cfg.runs)], named[len(cfg.runs) :]
    return policies, controls, [_of_its_policy(run, policies) for run in found["other_task"]], benchmark


def _with_flags(found: dict[str, list[Run]]) -> Iterator[tuple[str, Run]]:
    for flag, runs in found.items():
        for run in runs:
            yield flag, run


def _labels(cfg: ControlsConfig, names: Sequence[str]) -> list[str]:
    labels = cfg.labels or list(names)
    if len(labels) != len(names):
        raise EvalError(f"--labels={labels} must be {len(names)}, one for each of --runs and --controls.")
    check_labels("labels", labels)
    return labels


def _of_its_policy(run: Run, policies: Sequence[Entry]) -> Entry:
    weights = "weights_sha256"
    same_weights = [entry for entry in policies if entry.run.policy[weights] == run.policy[weights]]
    for entry in same_weights:
        if not _obstacle(entry.run, run):
            return Entry(entry.label, run)
    if same_weights:
        beside = same_weights[0].run
        raise EvalError(
            f"--other_task={run.path} can't be read beside {beside.path}: {_obstacle(beside, run)}, so more than the "
            "instruction differs. Run it again with the same settings, or leave it out."
        )
    raise EvalError(
        f"--other_task={run.path} is of {run.policy['checkpoint']}, whose weights none of --runs has; name the run of "
        "the same checkpoint in --runs, or leave it out."
    )


def _obstacle(run: Run, other: Run) -> str:
    """Say in what else a policy of the same weights differs that decides its actions; nothing if in nothing."""
    if not same_configuration(run.policy, other.policy):
        return "its checkpoint has another config.json or other pipelines (normalization statistics)"
    names = ("n_action_steps", "temporal_ensemble_coeff", "image_size")
    for name, ours, theirs in differences(names, run.settings, other.settings):
        return f"its {flag_of(name)} is {theirs}, not {ours}"
    return ""


def run(cfg: ControlsConfig, _: str) -> None:
    """Write a report; the last line of output says whether the first policy beats all controls over all tasks."""
    policies, controls, other_task, benchmark = read_entries(cfg)
    name = cfg.name or benchmark.kind
    check_report_name(name, cfg.reports)
    folder = cfg.reports / name
    kind = f"{benchmark.kind}_controls"
    note = note_text(cfg.note, folder, kind)
    table = table_of(policies, controls, other_task, benchmark)
    page = publish(folder, kind, table.content() | {"note": note}, page_of(table, note))
    plot_success(table.labels_of_groups, table.counts(), folder / PLOT)
    sys.stdout.write(f"report: {page}\n{table.sentences()[-1]}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for an error that the message explains, 2 for a flag that does not parse."""
    return run_command("eval.robustness", ControlsConfig, run, argv)
