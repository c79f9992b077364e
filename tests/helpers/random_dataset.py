"""A LeRobotDataset with the published schema and random content."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla.libero.demonstrations.schema import FPS, ROBOT_TYPE, libero_features
from tests.conftest import TASK

REPO_ID = "local/test"
PIXELS = 32


def write_dataset(
    root: Path, *, episodes: int = 2, frames: int = 12, seed: int = 0, tasks: Sequence[str] = (TASK,), copies: int = 1
) -> Path:
    """Short episodes of the tasks in turn, each ``copies`` times with other pictures, images as PNG files."""
    dataset = LeRobotDataset.create(
        REPO_ID, fps=FPS, features=libero_features(PIXELS), root=root, robot_type=ROBOT_TYPE, use_videos=False
    )
    random = np.random.default_rng(seed)
    for episode in range(episodes):
        recorded = [
            {
                **_pictures(random),
                "observation.state": random.normal(size=8).astype(np.float32),
                "action": random.uniform(-1, 1, 7).astype(np.float32),
                "task": tasks[episode % len(tasks)],
            }
            for _ in range(frames)
        ]
        for copy in range(copies):
            for frame in recorded:
                dataset.add_frame(frame | (_pictures(random) if copy else {}))
            dataset.save_episode()
    dataset.finalize()
    return root


def _pictures(random: np.random.Generator) -> dict[str, np.ndarray]:
    keys = ("observation.images.image", "observation.images.wrist_image")
    return {key: random.integers(0, 255, (PIXELS, PIXELS, 3), np.uint8) for key in keys}
