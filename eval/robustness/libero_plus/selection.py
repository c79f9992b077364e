"""Choose which tasks of LIBERO-Plus are run: by suite, category, level and name, and a fraction of those."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import LEVELS, Catalog
from eval.robustness.libero_plus.tasks import ALL_CATEGORIES, CATEGORIES, NEEDS_ASSETS, PlusTask
from lerobot_atlasvla.libero.tasks import SUITES


@dataclass(frozen=True)
class Selection:
    """Say which tasks are wanted.

    Attributes:
        suites: LIBERO suites.
        categories: Kinds of perturbation.
        levels: Difficulties; None for all, those without one included.
        task_names: These tasks only; None for all.
        base_tasks: LIBERO's tasks of which perturbed ones are wanted, by name; None for all.
        fraction: Part of each suite's category, in (0, 1].
        seed: Of the random choice of that part.
        own_assets: Whether LIBERO-Plus's own assets are there, which some categories need.
    """

    suites: Sequence[str]
    categories: Sequence[str]
    levels: Sequence[int] | None
    task_names: Sequence[str] | None
    fraction: float
    seed: int
    own_assets: bool = False
    base_tasks: Sequence[str] | None = None

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first value that is not allowed."""
        lists = {"suites": self.suites, "categories": self.categories}
        lists |= {"levels": self.levels, "task_names": self.task_names, "base_tasks": self.base_tasks}
        for flag, values in lists.items():
            if values is not None and (not values or len(set(values)) < len(values)):
                raise EvalError(f"--{flag}={list(values)} must name at least one, and none twice.")
        if unknown := [suite for suite in self.suites if suite not in SUITES]:
            raise EvalError(f"--suites names {unknown[0]!r}; LIBERO-Plus has {', '.join(SUITES)}.")
        for category in self.categories:
            if category not in ALL_CATEGORIES:
                raise EvalError(f"--categories names {category!r}; allowed: {', '.join(ALL_CATEGORIES)}.")
            if category in NEEDS_ASSETS and not self.own_assets:
                raise EvalError(
                    f"--categories names {category!r}, which needs LIBERO-Plus's own assets, {NEEDS_ASSETS[category]}: "
                    f"give their folder as --plus_assets; allowed without: {', '.join(CATEGORIES)}."
                )
        if odd := [level for level in self.levels or () if level not in LEVELS]:
            raise EvalError(f"--levels names {odd[0]}; LIBERO-Plus has the levels 1 to {LEVELS[-1]}.")
        if not 0 < self.fraction <= 1:
            raise EvalError(f"--fraction={self.fraction} must lie above 0 and be at most 1, all tasks.")
        if not self.seed >= 0:
            raise EvalError(f"--selection_seed={self.seed} must be at least 0.")
        if self.task_names is not None and self.fraction != 1:
            raise EvalError("--task_names and --fraction exclude each other: name the tasks, or have some drawn.")
        if self.task_names is not None and self.base_tasks is not None:
            raise EvalError("--task_names and --base_tasks exclude each other: a task's name has its base task in it.")

    def choose(self, catalog: Catalog) -> list[PlusTask]:
        """Return the tasks, suite by suite in LIBERO-Plus's order.

        A part of a category is spread evenly over its base tasks and levels, and a larger fraction contains a smaller
        one: all tasks of a category stand in one random order, of which the beginning is taken.

        Raises:
            EvalError: If a name is unknown, levels are asked for that are not known, or nothing is left.
        """
        self.validate()
        if self.levels is not None and catalog.classification_sha256 is None:
            raise EvalError(
                f"--levels={list(self.levels)} needs the levels, which are in no package and in LIBERO-Plus's "
                "repository only, without a license. Give its file as --task_classification=task_classification.json, "
                "or leave --levels out."
            )
        if self.task_names is not None:
            return self._named(catalog)
        bases = self._bases(catalog)
        wanted: dict[tuple[str, str], list[PlusTask]] = defaultdict(list)
        for task in catalog.tasks:
            if task.suite in self.suites and task.category in self.categories and task.base in bases:
                wanted[task.suite, task.category].append(task)
        chosen = {task for tasks in wanted.values() for task in self._part(tasks)}
        found = [task for task in catalog.tasks if task in chosen and (not self.levels or task.level in self.levels)]
        if not found:
            of_bases = "" if self.base_tasks is None else f" of --base_tasks={list(self.base_tasks)}"
            raise EvalError(
                f"--suites={list(self.suites)}, --categories={list(self.categories)}, --levels={self.levels} and "
                f"--fraction={self.fraction}{of_bases} leave no task; ask for more of them."
            )
        return found

    def _bases(self, catalog: Catalog) -> Sequence[str]:
        known = [base for suite in self.suites for base in catalog.bases[suite]]
        for name in self.base_tasks or ():
            if name not in known:
                raise EvalError(f"--base_tasks names {name!r}; --suites={list(self.suites)} have {', '.join(known)}.")
        return known if self.base_tasks is None else self.base_tasks

    def _named(self, catalog: Catalog) -> list[PlusTask]:
        known = {task.name: task for task in catalog.tasks if task.suite in self.suites}
        for name in self.task_names or ():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else "."
                raise EvalError(f"--task_names names {name!r}, which --suites={list(self.suites)} do not have{hint}")
            task = known[name]
            if task.category in NEEDS_ASSETS and not self.own_assets:
                raise EvalError(
                    f"--task_names names {name}, which needs LIBERO-Plus's own assets, {NEEDS_ASSETS[task.category]}: "
                    "give their folder as --plus_assets."
                )
            if task.category not in self.categories:
                raise EvalError(
                    f"--task_names names {name} of category {task.category}, but --categories={list(self.categories)}."
                )
            if self.levels and task.level not in self.levels:
                raise EvalError(f"--task_names names {name} of level {task.level}, but --levels={list(self.levels)}.")
        return [task for task in known.values() if task.name in set(self.task_names or ())]

    def _part(self, tasks: Sequence[PlusTask]) -> list[PlusTask]:
        """Return a fraction of one suite's category, at least one task."""
        strata: dict[tuple[str, int | None], list[PlusTask]] = defaultdict(list)
        for task in tasks:
            strata[task.base, task.level].append(task)
        places = {}
        for (base, level), members in strata.items():
            rng = self._rng(members[0], base, level)
            # Evenly spaced over 0 to 1 from a random start, so that any beginning holds its share of every stratum.
            spaced = (rng.permutation(len(members)) + rng.uniform()) / len(members)
            places |= dict(zip(members, spaced.tolist(), strict=True))
        count = max(1, round(self.fraction * len(tasks)))
        return sorted(tasks, key=places.__getitem__)[:count]

    def _rng(self, task: PlusTask, base: str, level: int | None) -> np.random.Generator:
        text = f"{self.seed} {task.suite} {task.category} {base} {level}"
        return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
