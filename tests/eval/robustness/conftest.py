"""A checkpoint, and rollouts that are only pretended, for the benchmarks' commands."""

from dataclasses import replace

import pytest

from eval.rollout import run
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker import RolloutJob, Task
from lerobot_atlasvla.libero.tasks import task_from_name
from tests.eval.robustness.wheels import BASES
from tests.eval.rollout.simulated_run import checkpoint, outcome_of, simulated

__all__ = ["checkpoint", "simulated"]


@pytest.fixture
def jobs(simulated, checkpoint, monkeypatch) -> list[RolloutJob]:
    """Make every rollout succeed whose task's number or initial state is odd; returns those simulated so far."""
    done: list[RolloutJob] = []

    def run_job(job: RolloutJob):
        scene = job.task.built_for
        assert all(file is None or file.is_file() for file in (scene.bddl_file, scene.states_file))
        done.append(job)
        outcome = outcome_of(job, bool((job.task.task_id + job.init_state) % 2))
        measured = {"undisturbed": job.task.task_id % 3 > 0, "path_m": 0.5, "jerk_m_s3": 2.0}
        return replace(outcome, rollout=replace(outcome.rollout, task_name=job.task.name, **measured))

    def libero_tasks(suites, task_ids):
        return [Task(suite, i, task_from_name(name)) for suite in suites for i, name in enumerate(BASES[suite])]

    monkeypatch.setattr(worker_pool, "run_job", run_job)
    monkeypatch.setattr(run, "libero_tasks", libero_tasks)
    return done
