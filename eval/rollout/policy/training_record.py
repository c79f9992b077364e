"""Read what a checkpoint and the folder around it say about its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as arrow_dataset

from eval.common.errors import EvalError
from eval.common.files import Recorded
from eval.common.lerobot_results import read_training_curve
from eval.rollout.policy.checkpoint import TRAIN_CONFIG_FILE, read_json, training_dataset
from lerobot_atlasvla.training.held_out import split_episodes
from lerobot_atlasvla.training.tensorboard import FOLDER
from lerobot_atlasvla.utils.errors import brief

COMMAND_FILE = "train_command.txt"
_LOSS = "train/loss"


def training_record(folder: Path) -> dict[str, Any] | None:
    """Return the steps, batch size, seed, data, policy settings, command and loss of a checkpoint's training.

    Args:
        folder: The checkpoint's ``pretrained_model``. Its training run is looked for where ``lerobot-train`` puts
            checkpoints: three folders up.

    Raises:
        EvalError: If a file beside the weights is not what LeRobot writes.

    Returns:
        ``training`` of ``run.json``, or None for a checkpoint without ``train_config.json``. ``steps`` are those of
        this checkpoint, ``episodes`` and ``frames`` those that were trained on, held-out ones left out (None if the
        dataset's folder is gone and the settings do not say it), ``command`` that of :func:`training_command`, and
        ``loss_curve`` ends with the checkpoint: from the TensorBoard files of the training run, else from its log
        (``train.log`` inside, or ``NAME.log`` beside it).
        ``minutes`` lie between its first and last entry (a pause before resuming included), None without TensorBoard.
    """
    dataset = training_dataset(folder)
    if dataset is None:
        return None
    file = folder / TRAIN_CONFIG_FILE
    config = Recorded(file, "LeRobot", read_json(file))
    steps = read_json(folder.parent / "training_state/training_step.json").get("step", config["steps"])
    episodes, frames = _trained_on(dataset)
    curve = [entry for entry in _loss_curve(_training_run(folder), config["log_freq"]) if entry.step <= steps]
    timed = [entry.time_s for entry in curve if entry.time_s is not None]
    return {
        "steps": steps,
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "dataset": {"repo_id": dataset["repo_id"]},
        "episodes": episodes,
        "frames": frames,
        "policy": config["policy"],
        "command": training_command(folder),
        "minutes": round((timed[-1] - timed[0]) / 60, 1) if timed else None,
        "loss_curve": [[entry.step, entry.loss] for entry in curve],
    }


def training_command(folder: Path) -> str | None:
    """Return the command that trained a checkpoint, from ``train_command.txt``, or None if there is no such file.

    Args:
        folder: The checkpoint's ``pretrained_model``, whose training run has the file beside ``checkpoints/``, or a
            copy by ``eval.keep_checkpoint``, which has it inside.
    """
    for file in (folder / COMMAND_FILE, _training_run(folder) / COMMAND_FILE):
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    return None


def _training_run(folder: Path) -> Path:
    return folder.parent.parent.parent


def _trained_on(dataset: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return how many episodes, and frames of them, a run learned from; None where the dataset no longer says it.

    Raises:
        EvalError: If the dataset is damaged.
    """
    chosen = dataset.get("episodes")
    files = sorted((Path(dataset["root"]) / "meta/episodes").glob("*/*.parquet")) if dataset.get("root") else []
    rows: dict[str, list[Any]] = {}
    if files:
        columns = ["episode_index", "tasks", "length"]
        try:
            table = arrow_dataset.dataset([str(file) for file in files]).to_table(columns=columns)
        except (OSError, ValueError) as error:
            raise EvalError(
                f"{files[0].parents[1]}, of the dataset that the checkpoint was trained on, can't be read: "
                f"{brief(error)}."
            ) from error
        rows = table.sort_by("episode_index").to_pydict()
    lengths = rows.get("length", [])
    if not lengths or max(chosen or [0]) >= len(lengths):
        return (len(chosen) if chosen is not None and not dataset.get("eval_split") else None), None
    training = split_episodes(dataset, rows["tasks"]).training
    return len(training), sum(lengths[episode] for episode in training)


class _Entry(NamedTuple):
    step: int
    loss: float
    time_s: float | None
    """Since 1970."""


def _loss_curve(run: Path, log_freq: int) -> list[_Entry]:
    if (run / FOLDER).is_dir():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0})
        events.Reload()
        if _LOSS in events.scalars.Keys():
            return [_Entry(event.step, event.value, event.wall_time) for event in events.Scalars(_LOSS)]
    for log in (run / "train.log", run.with_name(f"{run.name}.log")):
        if log.is_file():
            return [_Entry(step, loss, None) for step, loss in read_training_curve(log, log_freq)]
    return []
