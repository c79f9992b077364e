"""Read what a checkpoint and the folder around it say about its training."""

from pathlib import Path
from typing import Any, NamedTuple

from eval.common.files import Recorded
from eval.common.lerobot_results import read_training_curve
from eval.rollout.policy.checkpoint import TRAIN_CONFIG_FILE, read_json, training_dataset
from lerobot_atlasvla.training.tensorboard import FOLDER

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
        this checkpoint, ``episodes`` and ``frames`` those of the dataset if its folder is still there, ``command`` the
        content of ``train_command.txt`` beside ``checkpoints/``, and ``loss_curve`` ends with the checkpoint: from the
        TensorBoard files of the training run, else from its log (``train.log`` inside, or ``NAME.log`` beside it).
        ``minutes`` lie between its first and last entry (a pause before resuming included), None without TensorBoard.
    """
    dataset = training_dataset(folder)
    if dataset is None:
        return None
    file = folder / TRAIN_CONFIG_FILE
    config = Recorded(file, "LeRobot", read_json(file))
    steps = read_json(folder.parent / "training_state/training_step.json").get("step", config["steps"])
    root = dataset.get("root")
    info = read_json(Path(root) / "meta/info.json") if root else {}
    chosen = dataset.get("episodes")
    run = folder.parent.parent.parent
    command = run / COMMAND_FILE
    curve = [entry for entry in _loss_curve(run, config["log_freq"]) if entry.step <= steps]
    timed = [entry.time_s for entry in curve if entry.time_s is not None]
    return {
        "steps": steps,
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "dataset": {"repo_id": dataset["repo_id"]},
        "episodes": info.get("total_episodes") if chosen is None else len(chosen),
        # Of a part of the dataset the number is not written down.
        "frames": info.get("total_frames") if chosen is None else None,
        "policy": config["policy"],
        "command": command.read_text(encoding="utf-8").strip() if command.is_file() else None,
        "minutes": round((timed[-1] - timed[0]) / 60, 1) if timed else None,
        "loss_curve": [[entry.step, entry.loss] for entry in curve],
    }


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
