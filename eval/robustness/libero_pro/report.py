"""The report of ``python -m eval.pro``: per perturbation, suite and task, beside controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.robustness import benchmark_report as shared
from eval.robustness.libero_pro.tasks import NAME, PERTURBATIONS, PROMPTS
from eval.rollout.run_folder import Rollout, Run
from lerobot_atlasvla.libero.tasks import SUITE_TASKS

KIND = "libero_pro"
SHOWS = """`swap` and `lan` ask for the goal of the base task; a policy that ignores the instruction can pass them,
and fails `task`."""
READING = f"""{SHOWS} Published numbers mostly come from harnesses that told the policy the file's name instead of the
instruction (Zxy-MLlab/LIBERO-PRO#27; RLinf/RLinf#1442 corrected one): on `task` and `lan` they are another experiment.
A rerun of pi0.5 on spatial had 53 % on position and 55 % on task (Zxy-MLlab/LIBERO-PRO#15), where the paper prints 20
and 0."""
MISTAKE = "**--prompt=filename: the policy was told the unperturbed instruction, the published mistake.**"


def perturbation_of(rollout: Rollout) -> str:
    """Return the perturbation of a rollout's suite."""
    return rollout.suite.rpartition("_")[2]


def write_report(run: Run, controls: Sequence[Run]) -> Path:
    """Write ``report.json``, ``report.md`` and the plot into the run folder.

    Args:
        run: The run.
        controls: Runs of other policies on the same tasks.

    Returns:
        ``report.md``.

    Raises:
        EvalError: If the run or a control is of something else.
    """
    shared.check_benchmark(run, NAME, "output_dir")
    beside = shared.check_controls(run, controls, NAME)
    settings = run.settings
    by_kind = shared.grouped(run.rollouts, perturbation_of)
    categories = {kind: {"label": kind} | shared.figures(by_kind[kind]) for kind in PERTURBATIONS if kind in by_kind}
    tasks = shared.grouped(run.rollouts, lambda rollout: (rollout.suite, rollout.task_id))
    suites = shared.grouped(run.rollouts, lambda rollout: rollout.suite)
    of_tasks: dict[str, dict[str, Any]] = {
        f"{suite} {task_id}: {rollouts[0].instruction}": {
            "suite": suite,
            "task_id": task_id,
            "instruction": rollouts[0].instruction,
            **shared.figures(rollouts),
        }
        for (suite, task_id), rollouts in tasks.items()
    }
    of_suites = {suite: shared.figures(rollouts) for suite, rollouts in suites.items()}
    wanted = [(suite, kind) for suite in settings["suites"] for kind in settings["perturbations"]]
    asked = sum(SUITE_TASKS[suite] for suite, _ in wanted) * settings["episodes"]
    content = shared.common_content(run, asked, categories, "init_state") | {
        "suites": of_suites,
        "tasks": list(of_tasks.values()),
        "controls": shared.control_figures(run, beside, perturbation_of),
    }
    named = {f"{kind}: {PERTURBATIONS[kind]}": group for kind, group in categories.items()}
    page = [
        *shared.head_lines(f"{NAME}: {run.name}", run, content),
        *([MISTAKE, ""] if settings["prompt"] == "filename" else []),
        f"- prompt: {settings['prompt']}, {PROMPTS[settings['prompt']]}",
        f"- states per task: {settings['episodes']}",
        "",
        "## Perturbations",
        "",
        *shared.figures_table("perturbation", named),
        "",
        f"![success]({shared.PLOT})",
        "",
        *READING.splitlines(),
        "",
        "## Suites",
        "",
        *shared.figures_table("suite", of_suites),
        "",
        *shared.control_lines(content, {}),
        "## Tasks",
        "",
        *shared.figures_table("task", of_tasks),
        "",
        *shared.tail_lines(run, beside),
    ]
    return shared.write_with_plot(run, KIND, beside, content, page, perturbation_of)
