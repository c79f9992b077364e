"""``atlasvla-collect-geometry``: states of LIBERO tasks from random cameras, with depth, as a LeRobotDataset."""

from __future__ import annotations

import sys

from lerobot_atlasvla.libero.demonstrations.collect_record import Progress
from lerobot_atlasvla.libero.demonstrations.collector import collect_main, fill_dataset
from lerobot_atlasvla.libero.geometry_data.schema import geometry_dataset_features
from lerobot_atlasvla.libero.geometry_data.settings import GeometryConfig
from lerobot_atlasvla.libero.geometry_data.states import run_job

RECORD_NAME = "atlasvla_geometry.json"


def collect_geometry(config: GeometryConfig) -> Progress:
    """Fill the dataset at ``config.root`` up to ``config.episodes_per_task`` episodes of states per task.

    Args:
        config: The settings.

    Returns:
        What the dataset holds now.

    Raises:
        CollectionError: If a setting is wrong, the folder holds something else, the ranges leave no pose of the scene
            camera, or the disk is full.
    """
    config.validate()
    return fill_dataset(config, geometry_dataset_features(config), RECORD_NAME, run_job)


def summary(config: GeometryConfig, progress: Progress, seconds: float) -> str:
    """Format what the dataset holds and how long the new part of it took."""
    episodes = sum(progress.tasks[key].kept for key in config.tasks)
    states, views = progress.new_frames, progress.new_frames * len(config.views)
    return (
        f"{episodes} episodes of {len(config.tasks)} tasks, {progress.new_episodes} of them new: {states} states, "
        f"{views} views\n{states / max(seconds, 1e-9):.2f} states a second ({seconds:.0f} s, start-up included)\n"
        f"dataset: {config.root} (repo_id {config.dataset_name})"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when every requested episode is in the dataset, else as :func:`.exit_status`."""
    return collect_main("atlasvla-collect-geometry", GeometryConfig, collect_geometry, summary, argv)


if __name__ == "__main__":
    sys.exit(main())
