"""``atlasvla-collect``: scripted LIBERO demonstrations as a LeRobotDataset.

Workers simulate and render; this process alone writes. Episodes are written in the order (suite, task, attempt),
whatever order they arrive in, and an attempt depends on nothing but the settings, so the data do not depend on the
number of workers.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from lerobot_atlasvla.files.folder_lock import FolderInUseError
from lerobot_atlasvla.libero.demonstrations.collect_record import (
    RECORD_NAME,
    Progress,
    TaskProgress,
    check_same_features,
    check_same_settings,
    check_same_source,
    describe_source,
)
from lerobot_atlasvla.libero.demonstrations.collect_settings import CollectConfig, CollectionError, TaskKey
from lerobot_atlasvla.libero.demonstrations.dataset_writer import DatasetWriter, NotOurDatasetError, WriteError
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, run_job, start_worker
from lerobot_atlasvla.libero.demonstrations.schema import (
    FPS,
    ROBOT_TYPE,
    libero_features,
    trajectory_frames,
)
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.setup import require_libero
from lerobot_atlasvla.utils.cli import AGAIN, run_command
from lerobot_atlasvla.utils.extras import MissingExtraError

SOLVED_AT_START = 3
"""A task that is solved before anything is done this often in a row is no task to demonstrate."""


class Collector:
    """Fills a dataset up to the requested number of demonstrations per task.

    Args:
        config: Valid settings.
        store: The dataset.
        pool: Worker processes.
        source: Assets and simulator (:func:`describe_source`).
    """

    def __init__(
        self, config: CollectConfig, store: DatasetWriter, pool: ProcessPoolExecutor, source: dict[str, Any]
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._source = source
        self._batch: list[Attempt] = []
        self._commit_cut_short = False
        self._pending: dict[tuple[TaskKey, int], Future[Attempt]] = {}
        self._solved_at_start: Counter[str] = Counter()
        self.progress = Progress.from_record(store.record)
        for key in config.tasks:
            self.progress.tasks.setdefault(key, TaskProgress())

    def run(self) -> None:
        """Collect.

        Raises:
            CollectionError: If a task keeps failing, or the disk is full; what was collected before is kept.
        """
        from tqdm import tqdm

        tasks = {key: self.progress.tasks[key] for key in self._config.tasks}
        target = self._config.episodes_per_task
        initial = sum(min(task.kept, target) for task in tasks.values())
        started, wall_before = time.monotonic(), self.progress.wall_s
        bar = tqdm(total=target * len(tasks), initial=initial, unit="ep", desc="collecting", smoothing=0.1)
        try:
            self._submit()
            import lerobot.datasets.lerobot_dataset  # noqa: F401 - takes many seconds; do it while the workers start

            for key, task in tasks.items():
                suite, task_id = key
                while task.kept < target:
                    self._submit()
                    attempt = self._pending.pop((key, task.attempts)).result()
                    kept = self._count(task, attempt)
                    self._submit()  # keeps workers busy while this process writes
                    self.progress.wall_s = wall_before + time.monotonic() - started
                    bar.update(kept)
                    bar.set_postfix_str(
                        f"task {task_id}, success {self.success_rate:.0%}, "
                        f"{60 * self.progress.new_episodes / (time.monotonic() - started):.1f} ep/min"
                    )
                    if len(self._batch) >= self._config.save_every:
                        self._commit()
                    if self._solved_at_start[task.name] >= min(SOLVED_AT_START, self._config.max_failures):
                        other = ", or give another --displace_cm" if self._config.displace_cm else ""
                        raise CollectionError(
                            f"Task {task_id} of {suite} ({task.name}) was solved before anything was done, "
                            f"{self._solved_at_start[task.name]} times in a row, so there is nothing to demonstrate; "
                            f"leave it out with --task_ids{other}."
                        )
                    if task.failures_in_a_row >= self._config.max_failures:
                        raise CollectionError(
                            f"Task {task_id} of {suite} ({task.name}) failed {task.failures_in_a_row} times in a row "
                            f"(--max_failures={self._config.max_failures}); {task.kept} of its demonstrations were "
                            "kept. Are the assets complete, and is --max_steps or --noise unusual?"
                        )
        finally:
            bar.close()
            for future in self._pending.values():
                future.cancel()
            self._commit()

    @property
    def success_rate(self) -> float:
        """Return the share of attempts that were kept, over the dataset's life."""
        attempts = sum(task.attempts for task in self.progress.tasks.values())
        return sum(task.kept for task in self.progress.tasks.values()) / max(1, attempts)

    def _count(self, task: TaskProgress, attempt: Attempt) -> bool:
        task.name, task.instruction = attempt.task_name, attempt.instruction
        task.attempts += 1
        self._solved_at_start[task.name] = attempt.solved_at_start * (self._solved_at_start[task.name] + 1)
        if attempt.displacement is not None:
            moved_cm = math.hypot(*attempt.displacement.target_moved_cm)
            before_cm = task.mean_displacement_cm or 0.0
            task.mean_displacement_cm = before_cm + (moved_cm - before_cm) / task.attempts
        task.recovery_attempts += attempt.recovery
        if attempt.trajectory is None:
            task.failures_in_a_row += 1
            return False
        task.kept += 1
        task.recovery_kept += attempt.recovery
        self.progress.new_episodes += 1
        task.failures_in_a_row = 0
        self._batch.append(attempt)
        return True

    def _submit(self) -> None:
        """Hand out attempts in order, as many as can still be needed and a bounded number ahead of the writer."""
        target = self._config.episodes_per_task
        awaited = True  # the next attempt of the first unfinished task is what the writer waits for
        for key in self._config.tasks:
            task = self.progress.tasks[key]
            ahead = sum(pending_task == key for pending_task, _ in self._pending)
            while task.kept + ahead < target:
                if len(self._pending) > self._config.workers and not (awaited and ahead == 0):
                    return
                attempt = task.attempts + ahead
                self._pending[key, attempt] = self._pool.submit(run_job, self._config.job(key, attempt))
                ahead += 1
            awaited = awaited and ahead == 0

    def _commit(self) -> None:
        if self._commit_cut_short:
            return  # by an interrupt or a full disk; the store sorts it out at the next start
        self._commit_cut_short = True
        kept = [(attempt.trajectory, attempt.instruction) for attempt in self._batch if attempt.trajectory is not None]
        try:
            self._store.commit(
                [trajectory_frames(trajectory, instruction) for trajectory, instruction in kept],
                self.progress.record(self._config, self._source),
                image_bytes=sum(trajectory.agentview.nbytes + trajectory.wrist.nbytes for trajectory, _ in kept),
            )
        except WriteError as error:
            raise CollectionError(str(error)) from error
        self._batch = []
        self._commit_cut_short = False


def collect(config: CollectConfig) -> Progress:
    """Fill the dataset at ``config.root`` up to ``config.episodes_per_task`` demonstrations per task.

    Args:
        config: The settings.

    Returns:
        What the dataset holds now.

    Raises:
        CollectionError: If a setting is wrong, the folder holds something else, a task keeps failing, or the disk is
            full.
    """
    config.validate()
    try:
        require_libero()
    except MissingExtraError as error:
        raise CollectionError(f"{error}.") from error
    try:
        store = DatasetWriter(
            config.root,
            config.dataset_name,
            RECORD_NAME,
            create={
                "fps": FPS,
                "robot_type": ROBOT_TYPE,
                "features": libero_features(config.image_size),
                "use_videos": False,
            },
        )
    except (NotOurDatasetError, FolderInUseError) as error:
        raise CollectionError(str(error)) from error
    with closing(store):
        return _fill(config, store)


def _fill(config: CollectConfig, store: DatasetWriter) -> Progress:
    """Simulate what the store lacks."""
    record = store.record
    if record is not None:
        check_same_settings(record, config)
        check_same_features(config)
        progress = Progress.from_record(record)
        if all(key in progress.tasks and progress.tasks[key].kept >= config.episodes_per_task for key in config.tasks):
            return progress

    source = describe_source()
    if record is not None:
        check_same_source(record, source, config)

    _limit_threads(config.workers)
    os.environ.setdefault(ENV_CULL, "1")  # the same images, sooner
    # Spawn: GL contexts and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(config.workers, mp_context=context, initializer=start_worker)
    try:
        collector = Collector(config, store, pool, source)
        collector.run()
        return collector.progress
    except DisplacementError as error:
        raise CollectionError(str(error)) from error
    except BrokenProcessPool as error:
        raise CollectionError(
            "A worker process died without a Python error (out of memory, or a crash in the graphics driver?). "
            "What was written is complete; run the same command again to continue."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _limit_threads(workers: int) -> None:
    """Share the cores among the workers, which inherit these: one thread each for maths, the rest for software GL."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("LP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def summary(config: CollectConfig, progress: Progress, seconds: float) -> str:
    """Format a table of what the dataset holds."""
    displaced = "  displaced" if config.displace_cm else ""
    lines = [f"{'task':>5} {'attempts':>9} {'kept':>6} {'success':>8}{displaced}  instruction"]
    for suite, task_id in config.tasks:
        task = progress.tasks[suite, task_id]
        share = task.kept / max(1, task.attempts)
        moved = f"{task.mean_displacement_cm or 0:>8.1f} cm" if displaced else ""
        lines.append(f"{task_id:>5} {task.attempts:>9} {task.kept:>6} {share:>8.0%}{moved}  {task.instruction}")
    if config.skipped:
        tasks = ", ".join(f"{task_id} of {suite}" for suite, task_id in config.skipped)
        lines.append(f"skipped, because the scripted expert does not know them: {len(config.skipped)} tasks ({tasks})")
    recoveries = sum(progress.tasks[key].recovery_attempts for key in config.tasks)
    if recoveries:
        kept = sum(progress.tasks[key].recovery_kept for key in config.tasks)
        lines.append(f"starting from a mishap: {recoveries} attempts, {kept} kept")
    rate = 60 * progress.new_episodes / max(seconds, 1e-9)
    lines.append(f"new episodes: {progress.new_episodes} in {seconds:.0f} s ({rate:.1f} a minute, start-up included)")
    lines.append(f"dataset: {config.root} (repo_id {config.dataset_name})")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command from a console.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 0 when every requested demonstration is in the dataset, 1 for an error that the message explains,
        2 for a flag that does not parse, 130 when interrupted. Errors inside a worker are raised with the worker's
        traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    started = time.monotonic()

    def body(config: CollectConfig) -> None:
        progress = collect(config)
        sys.stdout.write(summary(config, progress, time.monotonic() - started) + "\n")

    return run_command("atlasvla-collect", CollectConfig, body, argv, errors=CollectionError, again=AGAIN)


if __name__ == "__main__":
    sys.exit(main())
