"""``python -m eval.reliance``: which of its inputs a policy's actions depend on, without a simulator.

On frames of a dataset, the images, the instruction or the state are replaced by those of another episode, and the
geometry blocks of an AtlasVLA policy by noise or by nothing; what is reported is how much the executed actions and the
loss change. The measurement itself is ``lerobot_atlasvla/inspection/reliance.py``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot.utils.constants import ACTION

from eval.common.cli import run_command
from eval.common.environment_info import versions
from eval.common.errors import LARGEST_SEED, EvalError, check_at_least, check_at_most
from eval.common.files import json_text, only_writer
from eval.offline.held_out import EpisodeChoice, choose_episodes
from eval.offline.policy_data import (
    action_statistic,
    check_is_dataset,
    check_observations,
    load_policy,
    load_processors,
    read_dataset,
    read_metadata,
)
from eval.report.reliance_page import PLOT, frames_text, plot_reliance, reliance_page, reliance_table
from eval.report.reliance_results import (
    KIND,
    RELIANCE_FILE,
    SCHEMA_VERSION,
    default_folder,
    figures,
    last_line,
    parts_content,
)
from eval.rollout.policy.checkpoint import LOADING_ERRORS, Checkpoint, choose_device, read_checkpoint
from eval.rollout.policy.training_record import training_record
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.inspection.paired_frames import PairedFrames
from lerobot_atlasvla.inspection.reliance import Reliance, measure, renamed_keys


@dataclass
class RelianceConfig:
    """Measure what a policy relies on: images, state, instruction, and for AtlasVLA its geometry blocks."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoint: Path
    # Folder of a LeRobot dataset with the cameras, state and actions that the policy was trained on.
    dataset_root: Path
    # reliance.json, reliance.md and reliance.png are written here, replacing earlier ones. If not given, the folder
    # "reliance" beside the checkpoint's pretrained_model, where eval.report finds it.
    output_dir: Path | None = None
    # Episodes to measure on, for example '[38, 39]'. If not given, those that were held out from training
    # (--dataset.eval_split or --dataset.episodes of lerobot-train); if there are none, all.
    episodes: list[int] | None = None
    # Take at most so many episodes, spread evenly, where --episodes is not given.
    max_episodes: int = 40
    # Frames of each episode, spread evenly.
    frames_per_episode: int = 8
    # Frames of an episode that the policy acts on at a time; less memory with fewer.
    batch_size: int = 32
    # Seed of the pairing of episodes, of the noise in the geometry blocks, and of policies that draw random numbers.
    seed: int = 1000
    # Actions of each chunk that are executed, and therefore looked at, instead of the checkpoint's own number.
    n_action_steps: int | None = None
    # Device of the policy, such as cpu or cuda. cuda if there is one and nothing is given.
    device: str | None = None

    def check(self) -> None:
        """Find what can't work, before anything large is read.

        Raises:
            EvalError: Naming the flag.
        """
        check_at_least(self, max_episodes=1, frames_per_episode=1, batch_size=1, n_action_steps=1, seed=0)
        check_at_most(self, seed=LARGEST_SEED)
        if self.episodes is not None and (not self.episodes or len(set(self.episodes)) < len(self.episodes)):
            raise EvalError(f"--episodes={self.episodes} must name at least one episode, and none twice.")
        check_is_dataset(self.dataset_root)


def folder_of(cfg: RelianceConfig, checkpoint: Checkpoint) -> Path:
    """Return where the results go.

    Raises:
        EvalError: If it has to be named.
    """
    folder = cfg.output_dir or default_folder(checkpoint.folder)
    if folder is None:
        raise EvalError(
            f"--output_dir is needed: --checkpoint={cfg.checkpoint} is not named pretrained_model, so no place "
            "beside it belongs to this checkpoint alone."
        )
    return folder


def measure_checkpoint(cfg: RelianceConfig, checkpoint: Checkpoint) -> tuple[Reliance, EpisodeChoice]:
    """Load policy and dataset, and measure.

    Raises:
        EvalError: If they can't be read or don't fit each other or the settings.
    """
    from lerobot.datasets.factory import resolve_delta_timestamps

    meta = read_metadata(cfg.dataset_root)
    if meta.total_episodes < 2:
        raise EvalError(
            f"--dataset_root={cfg.dataset_root}: reliance swaps frames between episodes; the dataset has "
            f"{meta.total_episodes}."
        )
    shape = tuple((meta.features.get(ACTION) or {}).get("shape") or ())
    if len(shape) != 1:
        raise EvalError(f"--dataset_root={cfg.dataset_root} has actions of shape {shape}; they must be flat.")
    action_std_A = action_statistic(meta, cfg.dataset_root, "std")
    table: Any = meta.episodes
    choice = choose_episodes(checkpoint.folder, cfg.dataset_root, list(table["tasks"]), cfg.episodes, cfg.max_episodes)
    dataset = read_dataset(meta, cfg.dataset_root, resolve_delta_timestamps(checkpoint.config, meta))
    try:
        frames = PairedFrames(dataset, choice.episodes, cfg.frames_per_episode, cfg.seed)
    except ValueError as error:
        raise EvalError(f"--{error}") from error
    try:
        preprocess, postprocess = load_processors(checkpoint)
        renamed = renamed_keys(preprocess)
        check_observations(checkpoint.config, meta, f"--checkpoint={cfg.checkpoint}", renamed)
        measured = measure(
            load_policy(checkpoint, meta, renamed),
            preprocess,
            postprocess,
            frames,
            action_std_A=action_std_A,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
        )
    except LOADING_ERRORS as error:
        raise EvalError(
            f"--checkpoint={cfg.checkpoint}, a policy of type {checkpoint.config.type}, can't be loaded or can't act "
            f"on --dataset_root={cfg.dataset_root}: {error}"
        ) from error
    return measured, choice


def content_of(
    cfg: RelianceConfig, checkpoint: Checkpoint, measured: Reliance, choice: EpisodeChoice, command: str
) -> dict[str, Any]:
    """Return the content of ``reliance.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "command": command,
        "checkpoint": {
            "path": str(cfg.checkpoint),
            "type": checkpoint.config.type,
            "weights_sha256": checkpoint.weights_sha256,
        },
        "training_steps": (training_record(checkpoint.folder) or {}).get("steps"),
        "dataset": str(cfg.dataset_root),
        "episodes": list(choice.episodes),
        "held_out": choice.held_out,
        "episodes_are": choice.words,
        "frames_per_episode": cfg.frames_per_episode,
        "seed": cfg.seed,
        "device": checkpoint.config.device,
        "n_action_steps": measured.n_action_steps,
        "action_dimensions": list(measured.action_dimensions),
        "loss": figures(measured.loss_E),
        "parts": parts_content(measured),
        "environment": versions(),
    }


def run(cfg: RelianceConfig, command: str) -> None:
    """Measure, write the three files and print the table; the last line sums it up."""
    from lerobot.utils.import_utils import register_third_party_plugins

    cfg.check()
    register_third_party_plugins()
    checkpoint = read_checkpoint(cfg.checkpoint, choose_device(cfg.device), cfg.n_action_steps)
    folder = folder_of(cfg, checkpoint)
    content = content_of(cfg, checkpoint, *measure_checkpoint(cfg, checkpoint), command)
    with only_writer(folder):
        write_text(folder / RELIANCE_FILE, json_text(content))
        write_text(folder / "reliance.md", reliance_page(content))
        plot_reliance(content, folder / PLOT)
    lines = [frames_text(content), *reliance_table(content), f"report: {folder / 'reliance.md'}", last_line(content)]
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for what can't be measured, 2 for a flag that does not parse."""
    return run_command("eval.reliance", RelianceConfig, run, argv)
