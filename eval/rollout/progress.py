"""Show how far a run is, and choose the rollouts that get a video."""

import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.common.statistics import format_rate
from eval.rollout.run_folder import Rollout, RolloutKey
from eval.rollout.workers.worker import RolloutJob


class Progress:
    """Show a bar over all rollouts, and a line for every task that is complete.

    Args:
        keys: All rollouts asked for.
        done: Those of earlier commands.
    """

    def __init__(self, keys: Sequence[RolloutKey], done: Sequence[Rollout]) -> None:
        from tqdm import tqdm

        self._missing = Counter(key[:2] for key in keys)
        self._rollouts: dict[tuple[str, int], list[Rollout]] = {task: [] for task in self._missing}
        self._bar = tqdm(total=len(keys), unit="rollout", smoothing=0.1, disable=False)
        asked = set(keys)
        for rollout in done:
            if rollout.key in asked:
                self.add(rollout)
        self._bar.initial = self._bar.n  # what is there already says nothing about the speed
        self._bar.unpause()

    def add(self, rollout: Rollout) -> None:
        """Count a finished rollout, and print its task's result if that was its last."""
        task = rollout.suite, rollout.task_id
        self._rollouts[task].append(rollout)
        self._missing[task] -= 1
        self._bar.update()
        everything = [r for rollouts in self._rollouts.values() for r in rollouts]
        self._bar.set_postfix_str(f"success {sum(r.success for r in everything)}/{len(everything)}")
        # A benchmark of thousands of tasks with one rollout each has its own summary.
        if self._missing[task] == 0 and (rollout.task_name is None or len(self._rollouts[task]) > 1):
            self._bar.write(task_line(self._rollouts[task]), file=sys.stdout)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def task_line(rollouts: Sequence[Rollout]) -> str:
    """Return the result of one task in words."""
    successes = [r.steps for r in rollouts if r.success]
    steps = f"{statistics.median(successes):g} steps to success (median)" if successes else "no success"
    seconds = statistics.fmean(r.wall_s for r in rollouts)
    first = rollouts[0]
    rate = format_rate(len(successes), len(rollouts))
    return f"{first.suite} {first.task_id}: {rate}, {steps}, {seconds:.1f} s a rollout"


class Filming:
    """Choose the rollouts to film: per task and seed the first failures, and successes of the first initial states.

    Args:
        videos: How many of each at most.
        folder: The run folder.
        done: Rollouts of earlier commands.
    """

    def __init__(self, videos: int, folder: Path, done: Sequence[Rollout]) -> None:
        self._videos = videos
        self._folder = folder
        self._failures = Counter(self._group(r) for r in done if r.video is not None and not r.success)

    def instruct(self, job: RolloutJob) -> RolloutJob:
        """Tell a worker whether to film; before a rollout nobody knows how it ends."""
        group = job.task.suite, job.task.task_id, job.seed
        return replace(
            job, film_failure=self._failures[group] < self._videos, film_success=job.init_state < self._videos
        )

    def keep(self, rollout: Rollout) -> Rollout:
        """Drop a failure's video if workers that did the same task at the same time made too many."""
        if rollout.video is None or rollout.success:
            return rollout
        if self._failures[self._group(rollout)] >= self._videos:
            (self._folder / rollout.video).unlink()
            return replace(rollout, video=None)
        self._failures[self._group(rollout)] += 1
        return rollout

    @staticmethod
    def _group(rollout: Rollout) -> tuple[str, int, int]:
        return rollout.suite, rollout.task_id, rollout.seed
