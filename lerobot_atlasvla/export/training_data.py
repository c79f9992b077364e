"""Read instructions and action names from the dataset that a checkpoint was trained on, where it is still there."""

import json
from pathlib import Path
from typing import Any

from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION


def training_data(checkpoint: Path) -> LeRobotDatasetMetadata | None:
    """Return the metadata of the dataset; None if it is not on this machine, or can't be read."""
    try:
        dataset = json.loads((checkpoint / "train_config.json").read_text(encoding="utf-8"))["dataset"]
        root = Path(dataset["root"])
        # LeRobot would ask the Hub for what is missing.
        if not (root / "meta/info.json").is_file():
            return None
        return LeRobotDatasetMetadata(dataset["repo_id"], root=root)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def tasks_of(data: LeRobotDatasetMetadata) -> list[str]:
    """Return the instructions of a dataset, in its order."""
    return [] if data.tasks is None else [str(task) for task in data.tasks.index]


def action_names(data: LeRobotDatasetMetadata, size: int) -> list[str] | None:
    """Return the names of an action's dimensions, if the dataset has one for each."""
    names: Any = data.features.get(ACTION, {}).get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names] if isinstance(names, list) and len(names) == size else None
