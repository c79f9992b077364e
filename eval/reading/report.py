"""The numbers of a report of ``eval.reading``, and what is written of them; they depend on the rollouts only."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.statistics import format_rate
from eval.reading.judge import ANOTHER, LEFT_OUT, OUTCOMES, TOLD
from eval.reading.nominal import check_nominal
from eval.reading.page import page_of
from eval.reading.pairs import NAME, pairs
from eval.reading.plot import PLOT, plot_matrix
from eval.report.data import counts, publish, rate_figures, sorted_groups, sorted_rollouts
from eval.rollout.run_folder import Rollout, Run

KIND = "reading"
_COLUMNS = ("state_task", "told_task", "seed", "init_state", "outcome", "goal", "steps")


def write_report(run: Run, folder: Path, nominal: Run | None, note: str) -> tuple[Path, str]:
    """Write ``report.json``, ``report.md`` and the plot.

    Args:
        run: The run.
        folder: Folder of the report.
        nominal: Run of ``eval.run`` for the diagonal.
        note: Remarks by hand, Markdown.

    Returns:
        ``report.md``, and how often the policy did what it was told.

    Raises:
        EvalError: If the run is of something else or has nothing to report, the diagonal is of another policy, or
            another process is writing the report.
    """
    found = run.settings.get("benchmark", "LIBERO")
    if found != NAME:
        raise EvalError(f"--output_dir={run.path} holds a run on {found}, not on {NAME}.")
    if not run.rollouts:
        raise EvalError(f"--output_dir={run.path} has no finished rollouts, so there is nothing to report.")
    if nominal is not None:
        check_nominal(nominal, run.policy, run.settings, run.simulator)
    content = report_content(run, nominal) | {"note": note}
    page = publish(folder, KIND, content, page_of(content, run))
    plot_matrix(content, folder / PLOT)
    told = content["total"][TOLD]
    return page, told["total"] if told else "nothing, because all rollouts are left out"


def report_content(run: Run, nominal: Run | None = None) -> dict[str, Any]:
    """Return the content of ``report.json``: the run's settings, and its outcomes in all, by task told and by scene."""
    settings = run.settings
    (suite,) = settings["suites"]
    tasks = settings["instructions"]
    wanted = pairs(len(tasks), settings["task_ids"], settings["told_task_ids"])
    asked = len(wanted) * settings["episodes"] * len(settings["seeds"])
    rollouts = [rollout for rollout in sorted_rollouts(run) if rollout.judgment is not None]
    shown = [rollout for rollout in rollouts if _of(rollout, "outcome") != LEFT_OUT]
    return {
        "complete": len(rollouts) >= asked,
        "rollouts_asked": asked,
        "suite": suite,
        "tasks": tasks,
        "displaced_cm": settings["displace_cm"],
        "total": outcome_figures(shown),
        "by_told_task": _by(shown, "told_task"),
        "by_state_task": _by(shown, "state_task"),
        "pairs": [
            {"state_task": state, "told_task": told, **outcome_counts(of_pair)}
            for (state, told), of_pair in sorted_groups(shown, _pair).items()
        ],
        "third_goals": _counted((*_pair(r), _of(r, "goal")) for r in shown if _of(r, "outcome") == ANOTHER),
        "nominal": None if nominal is None else _diagonal(nominal, suite),
        "left_out": _counted(
            (*_pair(r), task)
            for r in rollouts
            if _of(r, "outcome") == LEFT_OUT
            for task in _of(r, "true_at_start")
            if task in _pair(r)
        ),
        "not_judged": _counted(
            (*_pair(r)[:1], task) for r in shown for task in range(len(tasks)) if task not in _of(r, "judged")
        ),
        **{part: getattr(run, part) for part in ("command", "policy", "training", "settings", "simulator", "versions")},
        "rollout_columns": list(_COLUMNS),
        "rollout_rows": [
            [getattr(r, column) if hasattr(r, column) else _of(r, column) for column in _COLUMNS] for r in rollouts
        ],
    }


def outcome_counts(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """Return how many rollouts there are, and how many of each outcome."""
    found = Counter(_of(rollout, "outcome") for rollout in rollouts)
    return {"rollouts": len(rollouts)} | {outcome: found[outcome] for outcome in OUTCOMES}


def outcome_figures(rollouts: Sequence[Rollout]) -> dict[str, dict[str, Any] | None]:
    """Return the rate of each outcome with its 95 % Wilson interval; None without any rollout."""
    found = outcome_counts(rollouts)
    return {outcome: rate_figures(found[outcome], len(rollouts)) if rollouts else None for outcome in OUTCOMES}


def _by(rollouts: Sequence[Rollout], key: str) -> list[dict[str, Any]]:
    groups = sorted_groups(rollouts, lambda rollout: _of(rollout, key))
    return [{key: task} | outcome_figures(of_task) for task, of_task in groups.items()]


def _diagonal(nominal: Run, suite: str) -> dict[str, Any]:
    of_suite = [rollout for rollout in nominal.rollouts if rollout.suite == suite]
    groups = sorted_groups(of_suite, lambda rollout: rollout.task_id)
    tasks = [{"task": task, **rate_figures(*counts(of_task))} for task, of_task in groups.items()]
    return {"name": nominal.name, "total": format_rate(*counts(of_suite)), "tasks": tasks}


def _counted(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Return each different row with how often it is there."""
    return [[*row, number] for row, number in sorted(Counter(rows).items())]


def _of(rollout: Rollout, key: str) -> Any:
    assert rollout.judgment is not None
    if key not in rollout.judgment:
        raise EvalError(
            f"A rollout of task {rollout.task_id} from state {rollout.init_state} is not what eval.reading writes: its "
            f"judgment does not say {key!r}."
        )
    return rollout.judgment[key]


def _pair(rollout: Rollout) -> tuple[int, int]:
    return _of(rollout, "state_task"), _of(rollout, "told_task")
