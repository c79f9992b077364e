"""``atlasvla-collect``: scripted LIBERO demonstrations as a LeRobotDataset."""

from __future__ import annotations

import sys

from lerobot_atlasvla.libero.demonstrations.collect_record import RECORD_NAME, Progress
from lerobot_atlasvla.libero.demonstrations.collect_settings import CollectConfig
from lerobot_atlasvla.libero.demonstrations.collector import collect_main, fill_dataset
from lerobot_atlasvla.libero.demonstrations.episode import run_job
from lerobot_atlasvla.libero.demonstrations.schema import libero_features


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
    features = libero_features(config.image_size, config.depth_cell_px if config.store_geometry else None)
    return fill_dataset(config, features, RECORD_NAME, run_job)


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
    if config.random_cameras:
        lines.append(f"each demonstration: its own camera, then {config.random_cameras} random ones, an episode each")
    rate = 60 * progress.new_episodes / max(seconds, 1e-9)
    lines.append(f"new episodes: {progress.new_episodes} in {seconds:.0f} s ({rate:.1f} a minute, start-up included)")
    lines.append(f"dataset: {config.root} (repo_id {config.dataset_name})")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when every demonstration is in the dataset, else as :func:`.exit_status`."""
    return collect_main("atlasvla-collect", CollectConfig, collect, summary, argv)


if __name__ == "__main__":
    sys.exit(main())
