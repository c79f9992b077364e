"""Hand rollouts to worker processes: each stays with a task, whose environment takes seconds to build."""

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Self

from eval.rollout.workers.scene import Scene
from eval.rollout.workers.worker import (
    FinishedRollout,
    RolloutJob,
    Task,
    WorkerSettings,
    count_parameters,
    run_job,
    start,
)


class Schedule:
    """Rollouts that wait for a worker.

    Args:
        jobs: In the order in which they should be done.
    """

    def __init__(self, jobs: Iterable[RolloutJob]) -> None:
        self._waiting: dict[Scene, deque[RolloutJob]] = {}
        for job in jobs:
            self._waiting.setdefault(job.task.built_for, deque()).append(job)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def take(self, held: Task | None, others: Iterable[Task]) -> RolloutJob | None:
        """Hand out the next rollout, if possible one that needs no new environment.

        Args:
            held: Task whose environment the worker has.
            others: Tasks that the other workers have.

        Returns:
            One of the held task's scene if there is any left, else of the first scene that nobody has, else of the one
            with the most rollouts left per worker; None if nothing is left.
        """
        if not self._waiting:
            return None
        workers = Counter(task.built_for for task in others)
        scene = held and held.built_for
        if scene not in self._waiting:
            # The first of the largest.
            scene = max(self._waiting, key=lambda s: len(self._waiting[s]) / workers[s] if workers[s] else float("inf"))
        job = self._waiting[scene].popleft()
        if not self._waiting[scene]:
            del self._waiting[scene]
        return job


class WorkerPool:
    """Manage worker processes, started as they are needed; a context manager that ends them.

    Args:
        workers: How many at most.
        settings: For all of them.
    """

    def __init__(self, workers: int, settings: WorkerSettings) -> None:
        # Spawn: GL contexts and threads do not survive a fork. One pool each, so that a worker can be addressed.
        context = multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, mp_context=context, initializer=start, initargs=(settings,)) for _ in range(workers)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            # Rollouts that were begun are given up: they can take minutes.
            for process in multiprocessing.active_children():
                process.terminate()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def count_parameters(self) -> int:
        """Return the size of the policy, from the first worker that loads it.

        Raises:
            BrokenProcessPool: If the worker died without a Python error.
        """
        return self._pools[0].submit(count_parameters).result()

    def roll_out(self, schedule: Schedule, prepare: Callable[[RolloutJob], RolloutJob]) -> Iterator[FinishedRollout]:
        """Do all that is scheduled.

        Args:
            schedule: What to do; it is empty in the end.
            prepare: Called with each rollout when it is about to be handed out.

        Yields:
            Outcomes in order of completion.

        Raises:
            BrokenProcessPool: If a worker died without a Python error. Errors of Python are raised as they are. What
                other workers had finished by then has been yielded before.
        """
        held: dict[int, Task] = {}
        pending: dict[Future[FinishedRollout], int] = {}

        def submit(worker: int) -> None:
            job = schedule.take(held.get(worker), [task for other, task in held.items() if other != worker])
            if job is not None:
                held[worker] = job.task
                pending[self._pools[worker].submit(run_job, prepare(job))] = worker

        for worker in range(len(self._pools)):
            submit(worker)
        while pending:
            finished = wait(pending, return_when=FIRST_COMPLETED).done
            for future in sorted(finished, key=lambda future: future.exception() is not None):
                worker = pending.pop(future)
                outcome = future.result()
                yield outcome
                # Only now: whoever took the outcome may have changed its mind about what to film.
                submit(worker)
