"""Parts of eval.run: who does which rollout, which are filmed, what is printed of a task."""

from concurrent.futures import Future
from dataclasses import replace

import pytest

from eval.rollout.progress import Filming, task_line
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker_pool import Schedule
from tests.eval.rollout.simulated_run import job_of, outcome_of


def test_workers_stay_with_their_task_and_then_help_where_most_is_left():
    jobs = [job_of(task, state) for task in range(3) for state in range(3)]
    a, b, c = (job_of(task).task for task in range(3))
    schedule = Schedule(jobs)
    taken = [schedule.take(None, []), schedule.take(None, [a]), schedule.take(a, [b]), schedule.take(a, [b])]
    assert [job.key[1::2] for job in taken] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    # Nobody has the third task; then two tasks are shared, and more is left of the third.
    taken += [schedule.take(a, [b]), schedule.take(None, [c, b])]
    assert taken[-2].task == c
    assert taken[-1].task in (b, c)
    while job := schedule.take(c, [b]):
        taken.append(job)
    assert sorted(job.key for job in taken) == sorted(job.key for job in jobs)


def test_what_other_workers_finished_is_handed_over_before_an_error(monkeypatch):
    class InstantPool:
        def __init__(self, *arguments, **options):
            pass

        def submit(self, call, job):
            future: Future = Future()
            if job.init_state == 3:
                future.set_exception(RuntimeError("the simulator broke"))
            else:
                future.set_result(outcome_of(job, success=True))
            return future

    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", InstantPool)
    jobs = [job_of(0, state) for state in range(20)]
    finished = []
    with pytest.raises(RuntimeError, match="the simulator broke"):
        finished.extend(worker_pool.WorkerPool(20, settings=None).roll_out(Schedule(jobs), lambda job: job))
    assert len(finished) == 19


def test_the_first_failures_are_filmed_and_successes_of_the_first_states(tmp_path):
    done = [outcome_of(job_of(0, 9), success=False, video=True).rollout]
    filming = Filming(2, tmp_path, done)
    assert (filming.instruct(job_of(0, 1)).film_failure, filming.instruct(job_of(0, 1)).film_success) == (True, True)
    assert not filming.instruct(job_of(0, 2)).film_success

    (tmp_path / "videos").mkdir()
    kept = []
    for state in (2, 3):  # two workers were told to film before either had failed
        rollout = outcome_of(job_of(0, state), success=False, video=True).rollout
        (tmp_path / rollout.video).write_bytes(b"film")
        kept.append(filming.keep(rollout).video)
    assert kept == ["videos/0-0-2.mp4", None]
    assert [file.name for file in (tmp_path / "videos").iterdir()] == ["0-0-2.mp4"]
    assert not filming.instruct(job_of(0, 4)).film_failure
    assert filming.instruct(job_of(0, 4, seed=1)).film_failure
    assert filming.instruct(job_of(1, 4)).film_failure


def test_the_line_of_a_task():
    rollouts = [outcome_of(job_of(3, state), success=False).rollout for state in range(20)]
    assert task_line(rollouts) == "libero_spatial 3: 0/20 = 0.0 % [0.0, 16.1], no success, 2.0 s a rollout"
    rollouts[:18] = [replace(rollout, success=True, steps=61) for rollout in rollouts[:18]]
    assert task_line(rollouts) == (
        "libero_spatial 3: 18/20 = 90.0 % [69.9, 97.2], 61 steps to success (median), 2.0 s a rollout"
    )
