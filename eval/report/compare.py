"""``python -m eval.compare A B``: is one policy better than the other, or is it noise?

A and B are run folders of ``eval.run``, report folders or ``report.json`` files with one run each.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.former_flags import flag_of
from eval.common.statistics import format_difference, mcnemar_exact, newcombe_difference, paired_difference
from eval.report.data import LabeledRun, Task, read_runs
from eval.rollout.plan import same_simulator
from eval.rollout.run_folder import Rollout, Run
from lerobot_atlasvla.utils.cli import exit_status

SETTINGS = ("image_size", "settle_steps", "init_states", "episode_length", "look", "camera_shift", "displace_cm")
SIMULATOR = ("assets", "assets_note", "mujoco", "robosuite", "hf-libero")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """Compare two sets of rollouts, A and B. Rates and their difference are in [-1, 1].

    Attributes:
        difference: Success rate of A minus that of B, over all rollouts of each.
        low: Lower end of its 95 % interval (Newcombe, unpaired).
        high: Upper end.
        both: Shared rollouts (same task, seed and initial state) in which both succeeded.
        only_a: Shared rollouts in which only A succeeded.
        only_b: Shared rollouts in which only B succeeded.
        neither: Shared rollouts in which none did.
        p_value: Of McNemar's exact test on the shared rollouts; None if nothing is shared.
        unshared_a: Rollouts that only A has; no part of the five above.
        unshared_b: Rollouts that only B has.
    """

    difference: float
    low: float
    high: float
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float | None
    unshared_a: int
    unshared_b: int

    @property
    def shared(self) -> int:
        """Return how many rollouts both have."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def paired(self) -> tuple[float, float, float] | None:
        """Return the difference over the shared rollouts with its 95 % interval; None if nothing is shared.

        Newcombe's for paired data: narrower than the unpaired one where both mostly fail and succeed together.
        """
        if not self.shared:
            return None
        return paired_difference(self.both, self.only_a, self.only_b, self.neither)

    @property
    def noise(self) -> bool:
        """Say whether 0 lies in the interval."""
        return self.low <= 0 <= self.high

    def as_json(self) -> dict[str, Any]:
        """Return what ``report.json`` holds of it."""
        return asdict(self) | {"noise": self.noise}


def compare(a: Sequence[Rollout], b: Sequence[Rollout]) -> Comparison:
    """Compare two sets of rollouts, whatever their settings; :func:`obstacles` says whether that means anything.

    Raises:
        ValueError: If one of them is empty.
    """
    of_a, of_b = ({rollout.key: rollout.success for rollout in side} for side in (a, b))
    difference, low, high = newcombe_difference(sum(of_a.values()), len(of_a), sum(of_b.values()), len(of_b))
    pairs = [(of_a[key], of_b[key]) for key in of_a.keys() & of_b.keys()]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        both=pairs.count((True, True)),
        only_a=only_a,
        only_b=only_b,
        neither=pairs.count((False, False)),
        p_value=mcnemar_exact(only_a, only_b) if pairs else None,
        unshared_a=len(of_a) - len(pairs),
        unshared_b=len(of_b) - len(pairs),
    )


def compare_tasks(a: LabeledRun, b: LabeledRun) -> dict[Task, Comparison]:
    """Compare task by task, for the tasks that both have."""
    tasks_a, tasks_b = a.by_task(), b.by_task()
    return {task: compare(rollouts, tasks_b[task]) for task, rollouts in tasks_a.items() if task in tasks_b}


def differences(
    names: Iterable[str], a: Mapping[str, Any], b: Mapping[str, Any], what: str = ""
) -> list[tuple[str, Any, Any]]:
    """Return name and both values of the entries that differ; names begin with ``what``, what has them."""
    return [
        (what + name, a.get(name), b.get(name)) for name in names if not same_simulator(name, a.get(name), b.get(name))
    ]


def obstacles(a: Run, b: Run) -> list[str]:
    """Say what makes a difference of two runs meaningless, in words; nothing if they can be compared.

    Their tasks, everything else that changes the task or the image, and the versions of the simulator. How a policy
    acts (checkpoint, ``n_action_steps``) is what is compared. The images of a policy that gets none are those of its
    videos, so their size is no obstacle.
    """
    tasks_a, tasks_b = ({(rollout.suite, rollout.task_id) for rollout in run.rollouts} for run in (a, b))
    found = [
        f"tasks: only {which} has {', '.join(f'{suite} {task_id}' for suite, task_id in sorted(tasks))}"
        for which, tasks in (("the first", tasks_a - tasks_b), ("the second", tasks_b - tasks_a))
        if tasks
    ]
    blind = any(run.settings.get("cameras") == {} for run in (a, b))
    settings = [name for name in SETTINGS if not (blind and name == "image_size")]
    differing = differences(settings, a.settings, b.settings) + differences(SIMULATOR, a.simulator, b.simulator)
    return [*found, *(f"{flag_of(name)}: {of_a!r} and {of_b!r}" for name, of_a, of_b in differing)]


def verdict(a: str, b: str, result: Comparison) -> str:
    """Say in one sentence who is ahead, or that it is noise.

    Args:
        a: Label of A.
        b: Label of B.
        result: Their comparison.
    """
    if result.noise:
        shown = format_difference(result.difference, result.low, result.high)
        return f"{a} minus {b} is {shown}: this is noise: 0 lies in the interval."
    ahead, size, low, high = a, result.difference, result.low, result.high
    if result.difference < 0:
        ahead, size, low, high = b, -size, -high, -low
    return f"{ahead} is ahead by {format_difference(size, low, high).removeprefix('+')}."


def paired_lines(a: str, b: str, result: Comparison) -> list[str]:
    """Return what the shared rollouts say, in words.

    Args:
        a: Label of A.
        b: Label of B.
        result: Their comparison.
    """
    ignored = f"{result.unshared_a} rollouts that only {a} has and {result.unshared_b} that only {b} has"
    if result.p_value is None:
        return [f"No rollout (task, seed, initial state) is in both, so nothing is paired: {ignored}."]
    lines = [
        f"Paired, {result.shared} rollouts from the same states: both succeed {result.both}, only {a} {result.only_a}, "
        f"only {b} {result.only_b}, neither {result.neither}; McNemar's exact p = {result.p_value:.3g}."
    ]
    if result.unshared_a or result.unshared_b:
        lines.append(f"Ignored in the paired figures: {ignored}.")
    if result.noise == (result.p_value < SIGNIFICANT):
        lines.append(
            f"The paired test and the interval disagree (p {'<' if result.noise else '>='} {SIGNIFICANT}): "
            "take neither as settled, and do more rollouts."
        )
    return lines


def _one(path: Path) -> LabeledRun:
    found = read_runs(path)
    if len(found) > 1:
        names = ", ".join(entry.label for entry in found)
        raise EvalError(f"{path} holds {len(found)} runs ({names}) and compares them; name their run folders here.")
    return found[0]


def main(argv: list[str] | None = None) -> int:
    """Compare two runs; exit status 0 after a comparison, 1 if they can't be read or compared, 2 for a wrong flag."""
    # Not draccus, which has no arguments without a flag.
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description=__doc__)
    parser.add_argument("a", type=Path, help="run folder, report folder or report.json")
    parser.add_argument("b", type=Path, help="what to compare it with")
    parser.add_argument("--force", action="store_true", help="compare although tasks, settings or simulator differ")
    arguments = parser.parse_args(argv)
    return exit_status("compare", lambda: run(**vars(arguments)), errors=(EvalError, OSError))


def run(a: Path, b: Path, *, force: bool) -> int:
    """Print the comparison; return the exit status of the command."""
    one, other = _one(a), _one(b)
    differing = obstacles(one.run, other.run)
    if differing and not force:
        sys.stderr.write(
            "compare: the two can't be compared, they differ in\n"
            + "".join(f"  {line}\n" for line in differing)
            + "--force compares them all the same.\n"
        )
        return 1
    label_a, label_b = (one.label, other.label) if one.label != other.label else ("A", "B")
    result = compare(one.run.rollouts, other.run.rollouts)
    lines = [f"forced, although they differ in {line}" for line in differing]
    both = ((label_a, one), (label_b, other))
    lines += [f"{label}: {entry.total}" for label, entry in both]
    lines += [f"{label} is {entry.incomplete}" for label, entry in both if entry.incomplete]
    lines += [*paired_lines(label_a, label_b, result), verdict(label_a, label_b, result)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
