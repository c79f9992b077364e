"""A run whose simulator only pretends, for the tests of ``eval.run``."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eval.rollout import run
from eval.rollout.run_folder import Rollout, read_run
from eval.rollout.settings import RunConfig
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker import FinishedRollout, RolloutJob, Task
from tests.conftest import tiny_config

SIMULATOR = {"mujoco": "3", "assets": "stand-in", "assets_source": "here"}
TASKS = 3


def job_of(task_id: int, init_state: int = 0, seed: int = 0) -> RolloutJob:
    return RolloutJob(Task("libero_spatial", task_id, f"instruction {task_id}"), seed, init_state)


def outcome_of(job: RolloutJob, success: bool, video: bool = False) -> FinishedRollout:
    rollout = Rollout(
        suite=job.task.suite,
        task_id=job.task.task_id,
        instruction=job.task.instruction,
        seed=job.seed,
        init_state=job.init_state,
        success=success,
        steps=10 + job.init_state,
        wall_s=2.0,
        video=f"videos/{job.task.task_id}-{job.seed}-{job.init_state}.mp4" if video else None,
    )
    return FinishedRollout(rollout, np.zeros(3))


class FakePool(ThreadPoolExecutor):
    def __init__(self, max_workers, mp_context=None, initializer=None, initargs=()):
        super().__init__(max_workers)


@pytest.fixture
def simulated(monkeypatch):
    """Every odd initial state succeeds. Returns the keys simulated so far."""
    keys = []

    def run_job(job: RolloutJob) -> FinishedRollout:
        keys.append(job.key)
        return outcome_of(job, bool(job.init_state % 2))

    def libero_tasks(suites, task_ids):
        return [Task(suite, i, f"instruction {i}") for suite in suites for i in task_ids or range(TASKS)]

    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(worker_pool, "run_job", run_job)
    monkeypatch.setattr(worker_pool, "count_parameters", lambda: 1234)
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR)
    monkeypatch.setattr(run, "libero_tasks", libero_tasks)
    return keys


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tiny_config(n_action_steps=4)._save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


BASE = [
    "--checkpoint=checkpoint",
    "--output_dir=out",
    "--episodes=4",
    "--workers=2",
    "--device=cpu",
    "--render_quality=fast",
]


def records(path="out") -> list:
    return sorted(rollout.key for rollout in read_run(path).rollouts)


def config(**overrides) -> RunConfig:
    values = {"checkpoint": "checkpoint", "output_dir": "out", "device": "cpu", "render_quality": "fast", "episodes": 4}
    values |= overrides
    return RunConfig(**(values | {name: Path(values[name]) for name in ("checkpoint", "output_dir")}))
