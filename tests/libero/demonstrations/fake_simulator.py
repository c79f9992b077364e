"""A simulator that costs nothing: what is tested with it is the bookkeeping of ``atlasvla-collect``."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lerobot_atlasvla.libero.demonstrations.collect import CollectConfig
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, Job
from lerobot_atlasvla.libero.demonstrations.schema import Trajectory

REPO_ID = "test/collected"
SOURCE = {"assets": "stand-in", "simulator": {"mujoco": "0"}}


def fake_attempt(job: Job) -> Attempt:
    """Every third attempt fails; later attempts finish earlier."""
    time.sleep(0.02 * ((7 - job.attempt) % 4))
    steps = 2 + job.attempt % 2
    trajectory = Trajectory(
        agentview=np.full((steps, job.image_size, job.image_size, 3), job.attempt, dtype=np.uint8),
        wrist=np.zeros((steps, job.image_size, job.image_size, 3), dtype=np.uint8),
        eef_pos=np.full((steps, 3), job.task_id),
        eef_quat=np.tile([1.0, 0.0, 0.0, 0.0], (steps, 1)),
        gripper_qpos=np.zeros((steps, 2)),
        actions=np.full((steps, 7), job.attempt / 100, dtype=np.float32),
    )
    kept = None if job.attempt % 3 == 1 else trajectory
    recovery = job.recovery_share > 0 and job.attempt % 2 == 1
    return Attempt(f"name_{job.task_id}", f"instruction {job.task_id}", kept, recovery=recovery)


class FakePool(ThreadPoolExecutor):
    def __init__(self, max_workers, mp_context=None, initializer=None):
        super().__init__(max_workers)


def config(root: Path, **overrides) -> CollectConfig:
    values = {"root": root, "repo_id": REPO_ID, "task_ids": [2, 5], "episodes_per_task": 3, "image_size": 8}
    return CollectConfig(**(values | {"save_every": 2} | overrides))


def contents(root: Path) -> list[tuple[str, int, int]]:
    """(instruction, attempt, length) of every episode, as LeRobot loads the dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(REPO_ID, root=root)
    rows = []
    for index in range(dataset.num_episodes):
        episode = dataset.meta.episodes[index]
        frame = dataset[episode["dataset_from_index"]]
        rows.append((frame["task"], round(float(frame["action"][0]) * 100), episode["length"]))
    assert sum(length for *_, length in rows) == len(dataset)
    return rows


EXPECTED = [
    ("instruction 2", 0, 2),
    ("instruction 2", 2, 2),
    ("instruction 2", 3, 3),
    ("instruction 5", 0, 2),
    ("instruction 5", 2, 2),
    ("instruction 5", 3, 3),
]
