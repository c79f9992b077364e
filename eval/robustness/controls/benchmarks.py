"""Describe each benchmark to the report: its categories, and which one a rollout is of; no wheel is needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eval.robustness.libero_plus import names as plus_names
from eval.robustness.libero_plus import report as plus
from eval.robustness.libero_plus.tasks import ALL_CATEGORIES, LABELS, parse_task
from eval.robustness.libero_pro import report as pro
from eval.robustness.libero_pro import tasks as pro_tasks
from eval.rollout.run_folder import Rollout


@dataclass(frozen=True)
class ReportedBenchmark:
    """Describe a benchmark to the report of ``eval.robustness``.

    Attributes:
        name: What run folders call it.
        kind: Of its reports.
        category_of: Returns the category of a rollout.
        categories: In the report's order.
        labels: What the report calls a category, where that is not its name.
        reading: How to read the report.
    """

    name: str
    kind: str
    category_of: Callable[[Rollout], str]
    categories: tuple[str, ...]
    reading: str
    labels: Mapping[str, str] = field(default_factory=dict)


def _plus_category(rollout: Rollout) -> str:
    suite = rollout.suite.removesuffix(plus_names.SUITE_SUFFIX)
    return parse_task(suite, rollout.task_id, rollout.task_name or "").category


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        ReportedBenchmark(plus_names.NAME, plus.KIND, _plus_category, ALL_CATEGORIES, plus.SHOWS, LABELS),
        ReportedBenchmark(pro_tasks.NAME, pro.KIND, pro.perturbation_of, tuple(pro_tasks.PERTURBATIONS), pro.SHOWS),
    )
}
