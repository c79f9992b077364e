"""Run attempts in worker processes and write what they bring, in order.

Workers simulate and render; this process alone writes. Episodes are written in the order (suite, task, attempt),
whatever order they arrive in, and an attempt depends on nothing but the settings, so the data do not depend on the
number of workers.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from lerobot_atlasvla.files.folder_lock import FolderInUseError
from lerobot_atlasvla.libero.cameras.ranges import NoPoseError
from lerobot_atlasvla.libero.dataset_settings import CollectionError, DatasetConfig, TaskKey
from lerobot_atlasvla.libero.demonstrations.collect_record import (
    Progress,
    TaskProgress,
    check_same_features,
    check_same_settings,
    check_same_source,
    describe_source,
)
from lerobot_atlasvla.libero.demonstrations.dataset_writer import DatasetWriter, NotOurDatasetError, WriteError
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, start_worker
from lerobot_atlasvla.libero.demonstrations.schema import FPS, ROBOT_TYPE
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.setup import require_libero
from lerobot_atlasvla.utils.cli import AGAIN, log_to_terminal, run_command
from lerobot_atlasvla.utils.extras import MissingExtraError

SOLVED_AT_START = 3
"""A task that is solved before anything is done this often in a row is no task to demonstrate."""
NOT_DRAWN = 3
"""Settings that leave no displacement or camera pose so often in a row, before anything was kept, leave none."""

type RunJob = Callable[[Any], Attempt]


class Collector:
    """Fills a dataset up to the requested number of demonstrations per task.

    Args:
        config: Valid settings.
        store: The dataset.
        run_job: Simulates an attempt, in a worker process.
        pool: Worker processes.
        source: Assets and simulator (:func:`describe_source`).
    """

    def __init__(
        self,
        config: DatasetConfig,
        store: DatasetWriter,
        run_job: RunJob,
        pool: ProcessPoolExecutor,
        source: dict[str, Any],
    ) -> None:
        self._config = config
        self._store = store
        self._run_job = run_job
        self._pool = pool
        self._source = source
        self._batch: list[Attempt] = []
        self._commit_cut_short = False
        self._pending: dict[tuple[TaskKey, int], Future[Attempt]] = {}
        self._solved_at_start: Counter[TaskKey] = Counter()
        self._not_drawn: Counter[TaskKey] = Counter()
        self.progress = Progress.from_record(store.record)
        for key in config.tasks:
            self.progress.tasks.setdefault(key, TaskProgress())

    def run(self) -> None:
        """Simulate and store attempts until every task has the demonstrations that were asked for.

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
                while task.kept < target:
                    self._submit()
                    attempt = self._result(key)
                    kept = self._count(key, attempt)
                    self._submit()  # keeps workers busy while this process writes
                    self.progress.wall_s = wall_before + time.monotonic() - started
                    bar.update(kept)
                    bar.set_postfix_str(
                        f"task {key[1]}, success {self.success_rate:.0%}, "
                        f"{60 * self.progress.new_episodes / (time.monotonic() - started):.1f} ep/min"
                    )
                    if sum(len(kept.episodes) for kept in self._batch) >= self._config.save_every:
                        self._commit()
                    self._refuse_hopeless(key, attempt)
        finally:
            bar.close()
            for future in self._pending.values():
                future.cancel()
            self._commit()

    def _result(self, key: TaskKey) -> Attempt:
        """Wait for a task's next attempt; one for which nothing valid could be drawn is a failure like any other."""
        task = self.progress.tasks[key]
        try:
            return self._pending.pop((key, task.attempts)).result()
        except (DisplacementError, NoPoseError) as error:
            return Attempt(task.name, task.instruction, None, not_drawn=str(error))

    def _refuse_hopeless(self, key: TaskKey, attempt: Attempt) -> None:
        """Raise :class:`.CollectionError` if this attempt was one too many of its task's that brought nothing."""
        task, (suite, task_id) = self.progress.tasks[key], key
        if self._solved_at_start[key] >= min(SOLVED_AT_START, self._config.max_failures):
            other = ", or give another --displace_cm" if attempt.displacement else ""
            raise CollectionError(
                f"Task {task_id} of {suite} ({task.name}) was solved before anything was done, "
                f"{self._solved_at_start[key]} times in a row, so there is nothing to demonstrate; leave it out with "
                f"--task_ids{other}."
            )
        limit = self._config.max_failures if task.kept else min(NOT_DRAWN, self._config.max_failures)
        if self._not_drawn[key] >= limit:
            raise CollectionError(attempt.not_drawn)
        if task.failures_in_a_row >= self._config.max_failures:
            raise CollectionError(
                f"Task {task_id} of {suite} ({task.name}) failed {task.failures_in_a_row} times in a row "
                f"(--max_failures={self._config.max_failures}); {task.kept} of its demonstrations were kept. Are the "
                "assets complete, and is --max_steps or --noise unusual?"
            )

    @property
    def success_rate(self) -> float:
        """Return the share of attempts that were kept, over the dataset's life."""
        attempts = sum(task.attempts for task in self.progress.tasks.values())
        return sum(task.kept for task in self.progress.tasks.values()) / max(1, attempts)

    def _count(self, key: TaskKey, attempt: Attempt) -> bool:
        task = self.progress.tasks[key]
        task.name, task.instruction = attempt.task_name, attempt.instruction
        task.frames_of_reference = attempt.frames_of_reference or task.frames_of_reference
        task.attempts += 1
        self._solved_at_start[key] = attempt.solved_at_start * (self._solved_at_start[key] + 1)
        self._not_drawn[key] = bool(attempt.not_drawn) * (self._not_drawn[key] + 1)
        if attempt.displacement is not None:
            moved_cm = math.hypot(*attempt.displacement.target_moved_cm)
            before_cm = task.mean_displacement_cm or 0.0
            task.displaced += 1
            task.mean_displacement_cm = before_cm + (moved_cm - before_cm) / task.displaced
        task.recovery_attempts += attempt.recovery
        if attempt.trajectory is None:
            task.failures_in_a_row += 1
            return False
        task.kept += 1
        task.recovery_kept += attempt.recovery
        self.progress.new_episodes += 1
        self.progress.new_frames += sum(map(len, attempt.episodes))
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
                self._pending[key, attempt] = self._pool.submit(self._run_job, self._config.job(key, attempt))
                ahead += 1
            awaited = awaited and ahead == 0

    def _commit(self) -> None:
        if self._commit_cut_short:
            return  # by an interrupt or a full disk; the store sorts it out at the next start
        self._commit_cut_short = True
        kept = [(episode, attempt.instruction) for attempt in self._batch for episode in attempt.episodes]
        try:
            self._store.commit(
                [episode.frames(instruction) for episode, instruction in kept],
                self.progress.record(self._config, self._source),
                image_bytes=sum(episode.image_bytes for episode, _ in kept),
            )
        except WriteError as error:
            raise CollectionError(str(error)) from error
        self._batch = []
        self._commit_cut_short = False


def collect_main[Config: DatasetConfig](
    name: str,
    settings: type[Config],
    collect: Callable[[Config], Progress],
    summary: Callable[[Config, Progress, float], str],
    argv: Sequence[str] | None,
) -> int:
    """Run a command that fills a dataset, and print what the dataset then holds.

    Args:
        name: Of the command.
        settings: Dataclass of its flags.
        collect: Fills the dataset.
        summary: Formats what the dataset holds, and the seconds that the command took.
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status, as :func:`.exit_status`.
    """
    log_to_terminal()
    started = time.monotonic()

    def body(config: Config) -> None:
        progress = collect(config)
        sys.stdout.write(summary(config, progress, time.monotonic() - started) + "\n")

    return run_command(name, settings, body, argv, errors=CollectionError, again=AGAIN)


def fill_dataset(config: DatasetConfig, features: dict[str, Any], record_name: str, run_job: RunJob) -> Progress:
    """Fill the dataset at ``config.root`` up to ``config.episodes_per_task`` kept attempts per task.

    Args:
        config: The settings.
        features: For ``LeRobotDataset.create``; read only when the settings are valid.
        record_name: File name of the dataset's record.
        run_job: Simulates an attempt, in a worker process.

    Returns:
        What the dataset holds now.

    Raises:
        CollectionError: If a setting is wrong, the folder holds something else, a task keeps failing, or the disk is
            full.
    """
    try:
        require_libero()
    except MissingExtraError as error:
        raise CollectionError(f"{error}.") from error
    create = {"fps": FPS, "robot_type": ROBOT_TYPE, "features": features, "use_videos": False}
    try:
        store = DatasetWriter(config.root, config.dataset_name, record_name, create=create)
    except (NotOurDatasetError, FolderInUseError) as error:
        raise CollectionError(str(error)) from error
    with closing(store):
        try:
            return _fill(config, features, store, run_job)
        except NotOurDatasetError as error:
            raise CollectionError(str(error)) from error


def _fill(config: DatasetConfig, features: dict[str, Any], store: DatasetWriter, run_job: RunJob) -> Progress:
    """Simulate what the store lacks."""
    record = store.record
    if record is not None:
        with store.reading_record():
            check_same_settings(record, config)
            check_same_features(features, config)
            progress = Progress.from_record(record)
        if all(key in progress.tasks and progress.tasks[key].kept >= config.episodes_per_task for key in config.tasks):
            return progress

    source = describe_source()
    if record is not None:
        with store.reading_record():
            check_same_source(record, source, config)

    _limit_threads(config.workers)
    os.environ.setdefault(ENV_CULL, "1")  # the same images, sooner
    # Spawn: GL contexts and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(config.workers, mp_context=context, initializer=start_worker)
    try:
        collector = Collector(config, store, run_job, pool, source)
        collector.run()
        return collector.progress
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
