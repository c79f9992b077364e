"""Policies and controls on the tasks that all of them have: rates, paired differences, and what they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eval.common.errors import EvalError
from eval.common.statistics import format_difference
from eval.report.compare import Comparison, compare
from eval.report.data import LabeledRun, counts, enumeration, read_report
from eval.robustness.benchmark_report import figures
from eval.robustness.controls.benchmarks import ReportedBenchmark
from eval.rollout.policy.camera_keys import SCENE, WRIST
from eval.rollout.run_folder import Rollout, RolloutKey

TOTAL = "total"
_VIEWS = {SCENE: "scene camera", WRIST: "wrist camera"}


@dataclass(frozen=True)
class Entry(LabeledRun):
    """Hold a run with its rollouts by key, what its policy looks at, and whether it has finished."""

    @cached_property
    def by_key(self) -> dict[RolloutKey, Rollout]:
        """Return the rollouts by what identifies them."""
        return {rollout.key: rollout for rollout in self.run.rollouts}

    @property
    def looks_at(self) -> str:
        """Return the cameras that the policy gets."""
        return enumeration([_VIEWS[camera] for camera in self.run.settings["cameras"]]) or "nothing"

    @property
    def complete(self) -> bool:
        """Say whether the run's own report, written when it has finished, is about all rollouts that are there."""
        file = self.run.path / "report.json"
        report = read_report(file) if file.is_file() else {}
        return bool(report.get("complete")) and report["total"]["rollouts"] == len(self.run.rollouts)


@dataclass(frozen=True)
class Pair:
    """Compare a policy with a control, rollout by rollout.

    Attributes:
        policy: Label of the policy.
        control: Label of the control.
        result: The policy is A, the control B.
    """

    policy: str
    control: str
    result: Comparison

    @property
    def interval(self) -> tuple[float, float, float]:
        """Return the paired difference and its 95 % interval."""
        assert self.result.paired is not None
        return self.result.paired

    @property
    def difference(self) -> str:
        """Return, for example, ``+20.0 points [5.2, 33.4]``."""
        return format_difference(*self.interval)

    @property
    def sign(self) -> int:
        """Return 1 if the policy is ahead, -1 if it is behind, 0 if 0 lies in the interval."""
        _, low, high = self.interval
        return int(low > 0) - int(high < 0)

    def as_json(self) -> dict[str, Any]:
        """Return what ``report.json`` holds of it; ``low`` and ``high`` are the paired interval's."""
        difference, low, high = self.interval
        counts = {name: getattr(self.result, name) for name in ("both", "only_a", "only_b", "neither", "p_value")}
        named = {"policy": self.policy, "control": self.control}
        return named | {"difference": difference, "low": low, "high": high, "shown": self.sign > 0} | counts


@dataclass(frozen=True)
class Table:
    """Hold the rollouts that all runs have in common.

    Attributes:
        policies: The policies.
        controls: What they have to beat.
        other_task: Runs of some policies on other tasks' instructions, with the labels of the policies.
        benchmark: What all of them ran.
        groups: Keys of the rollouts in common by category, in the benchmark's order, and of all of them last.
    """

    policies: Sequence[Entry]
    controls: Sequence[Entry]
    other_task: Sequence[Entry]
    benchmark: ReportedBenchmark
    groups: Mapping[str, Sequence[RolloutKey]]

    @property
    def entries(self) -> list[Entry]:
        """Return the policies, then the controls."""
        return [*self.policies, *self.controls]

    @property
    def labels_of_groups(self) -> list[str]:
        """Return what the report calls the categories, and the total."""
        return [self.label_of(group) for group in self.groups]

    def label_of(self, group: str) -> str:
        """Return what the report calls a category."""
        return self.benchmark.labels.get(group, group)

    def rollouts(self, entry: Entry, group: str) -> list[Rollout]:
        """Return the rollouts of a run that the report is about."""
        return [entry.by_key[key] for key in self.groups[group]]

    def counts(self) -> dict[str, list[tuple[int, int] | None]]:
        """Return successes and rollouts by label, one entry per group."""
        return {entry.label: [counts(self.rollouts(entry, group)) for group in self.groups] for entry in self.entries}

    def left_out(self) -> dict[str, int]:
        """Return how many rollouts of each run are not in the report, since another run lacks them."""
        shared = len(self.groups[TOTAL])
        return {entry.label: len(entry.run.rollouts) - shared for entry in self.entries}

    def unfinished(self) -> list[str]:
        """Return the labels of runs that are not finished."""
        unfinished = [entry.label for entry in self.entries if not entry.complete]
        return unfinished + [
            f"{entry.label} on other tasks' instructions" for entry in self.other_task if not entry.complete
        ]

    def pairs(self, group: str, policy: Entry) -> list[Pair]:
        """Return the comparisons of a policy with each control."""
        ours = self.rollouts(policy, group)
        return [
            Pair(policy.label, control.label, compare(ours, self.rollouts(control, group))) for control in self.controls
        ]

    def sentences(self) -> list[str]:
        """Say for each group and policy whether it beats its controls; the first policy's total comes last."""
        return [
            _verdict(self.label_of(group), policy.label, self.pairs(group, policy))
            for group in self.groups
            for policy in self.policies[::-1]
        ]

    def instruction_pairs(self) -> list[tuple[str, Pair]]:
        """Return the comparisons of policies with themselves on other tasks' instructions, with their categories."""
        found = []
        for entry in self.other_task:
            (policy,) = [one for one in self.policies if one.label == entry.label]
            for group, keys in self.groups.items():
                shared = [key for key in keys if key in entry.by_key]
                if group == TOTAL or not shared:
                    continue
                result = compare([policy.by_key[key] for key in shared], [entry.by_key[key] for key in shared])
                found.append((group, Pair(entry.label, "another task's instruction", result)))
        return found

    def content(self) -> dict[str, Any]:
        """Return the content of ``report.json``."""
        settings = self.policies[0].run.settings
        groups = {
            group: {
                "label": self.label_of(group),
                "rollouts": len(keys),
                "success": {entry.label: figures(self.rollouts(entry, group)) for entry in self.entries},
                "pairs": [pair.as_json() for policy in self.policies for pair in self.pairs(group, policy)],
            }
            for group, keys in self.groups.items()
        }
        columns = ("suite", "task_id", "seed", "init_state")
        return {
            "benchmark": self.benchmark.name,
            "complete": not self.unfinished(),
            "unfinished": self.unfinished(),
            "left_out": self.left_out(),
            "prompt": settings["prompt"],
            "displaced_cm": settings["displace_cm"],
            TOTAL: groups.pop(TOTAL),
            "categories": groups,
            "sentences": self.sentences(),
            "other_task": [{"category": group} | pair.as_json() for group, pair in self.instruction_pairs()],
            "runs": [
                {"label": entry.label, "role": role, "looks_at": entry.looks_at}
                | {
                    part: getattr(entry.run, part)
                    for part in ("policy", "settings", "simulator", "versions", "command")
                }
                for role, entries in (
                    ("policy", self.policies),
                    ("control", self.controls),
                    ("other_task", self.other_task),
                )
                for entry in entries
            ],
            "rollout_columns": [*columns, "task", *(entry.label for entry in self.entries)],
            "rollout_rows": [
                [*key, self.policies[0].by_key[key].task_name, *(entry.by_key[key].success for entry in self.entries)]
                for key in self.groups[TOTAL]
            ],
        }


def table_of(
    policies: Sequence[Entry], controls: Sequence[Entry], other_task: Sequence[Entry], benchmark: ReportedBenchmark
) -> Table:
    """Find the rollouts that all policies and controls have.

    Raises:
        EvalError: If there is none.
    """
    shared = set.intersection(*(set(entry.by_key) for entry in (*policies, *controls)))
    if not shared:
        raise EvalError("No rollout is in all of --runs and --controls; leave out the run that has other tasks.")
    found: dict[str, list[RolloutKey]] = {}
    for key in sorted(shared):
        found.setdefault(benchmark.category_of(policies[0].by_key[key]), []).append(key)
    groups = {category: found[category] for category in benchmark.categories if category in found}
    return Table(policies, controls, other_task, benchmark, groups | {TOTAL: sorted(shared)})


def _verdict(group: str, policy: str, pairs: Sequence[Pair]) -> str:
    """Say in one sentence whether a policy beats its controls."""
    words = {1: "beats", 0: "is not shown to beat", -1: "is behind"}
    parts = [
        f"{words[sign]} {enumeration([f'{pair.control} ({pair.difference})' for pair in pairs if pair.sign == sign])}"
        for sign in words
        if any(pair.sign == sign for pair in pairs)
    ]
    answer = "yes" if all(pair.sign > 0 for pair in pairs) else "no"
    return f"{group}: {answer}, {policy} {enumeration(parts)}."
