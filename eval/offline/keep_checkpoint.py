"""``python -m eval.keep_checkpoint``: a checkpoint in half precision with digests and a card, small enough to be kept.

The weights are rounded to float16, with which a policy computes in float32 again: judge the kept checkpoint, not the
one it was made from.
"""

import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError, safe_open

from eval.common.cli import run_command
from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import TRAIN_CONFIG_FILE, find_checkpoint, read_json
from eval.rollout.policy.training_record import COMMAND_FILE, training_command
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.files.safetensors_files import save_tensors
from lerobot_atlasvla.utils.errors import brief

DIGESTS = "SHA256SUMS"
CARD = "README.md"
POLICY_TYPE = "atlasvla"


@dataclass
class KeepConfig:
    """Copy a checkpoint of AtlasVLA in half precision."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoint: Path
    # Folder of the copy; it must not exist yet.
    output_dir: Path
    # File with remarks for the card, Markdown: recipe, results, limits.
    note: Path | None = None


def half(file: Path, copy: Path) -> None:
    """Write a safetensors file with float32 tensors rounded to float16; others and the header stay as they are.

    Raises:
        EvalError: If a value does not fit float16, or the file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata()
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise EvalError(f"{file} is damaged or incomplete ({error}). Copy or download it again.") from error
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensors[name] = tensor.half()
            if not tensors[name].isfinite().all():
                raise EvalError(f"{file}: {name} holds values that float16 can't; keep this checkpoint as it is.")
    save_tensors(tensors, copy, metadata)


def card(folder: Path, note: str) -> str:
    """Return the README.md of a checkpoint: the policy's own card, then the remarks."""
    from lerobot.configs.train import TrainPipelineConfig

    from lerobot_atlasvla import AtlasVLAPolicy
    from lerobot_atlasvla.weights.checkpoint import UNREADABLE_CONFIG

    policy = AtlasVLAPolicy.from_pretrained(folder)
    training: Any = None
    if (folder / TRAIN_CONFIG_FILE).is_file():
        try:
            training = TrainPipelineConfig.from_pretrained(folder)
        except UNREADABLE_CONFIG as error:
            raise EvalError(f"The checkpoint's {TRAIN_CONFIG_FILE} can't be used: {brief(error)}") from error
    dataset = "unknown" if training is None or training.dataset is None else training.dataset.repo_id
    text = str(policy.generate_model_card(dataset, policy.config.type, "apache-2.0", None, cfg=training))
    return f"{text.rstrip()}\n\n## Notes\n\n{note.strip()}\n" if note else text


def keep(cfg: KeepConfig) -> None:
    """Copy a checkpoint's policy, rounded to float16, to a new folder with digests, a card and its training command.

    Raises:
        EvalError: If the checkpoint is none of AtlasVLA's.
        FileExistsError: If the copy's folder exists, at the beginning or, made by another process, at the end.
    """
    folder = find_checkpoint(cfg.checkpoint)
    if (kind := read_json(folder / CONFIG_NAME).get("type")) != POLICY_TYPE:
        raise EvalError(f"--checkpoint={cfg.checkpoint} is a policy of type {kind}; only {POLICY_TYPE} can be kept.")
    if not (folder / SAFETENSORS_SINGLE_FILE).is_file():
        raise EvalError(f"--checkpoint={cfg.checkpoint} has no {SAFETENSORS_SINGLE_FILE} (an adapter has none).")
    if cfg.output_dir.exists():
        raise FileExistsError(cfg.output_dir)
    note = "" if cfg.note is None else cfg.note.read_text(encoding="utf-8")
    with replacing(cfg.output_dir) as copy:
        copy.mkdir()
        for file in sorted(folder.iterdir()):
            if file.name == SAFETENSORS_SINGLE_FILE:
                half(file, copy / file.name)
            elif file.suffix in (".json", ".safetensors"):
                shutil.copy(file, copy / file.name)
        if command := training_command(folder):
            (copy / COMMAND_FILE).write_text(f"{command}\n", encoding="utf-8")
        (copy / CARD).write_text(card(copy, note), encoding="utf-8")
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(copy.iterdir())]
        (copy / DIGESTS).write_text("".join(lines))


def run(cfg: KeepConfig, _: str) -> None:
    """Make the copy and say where it is."""
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    try:
        keep(cfg)
    except FileExistsError as error:
        raise EvalError(f"--output_dir={cfg.output_dir} exists; choose a new folder, or remove it.") from error
    except ValueError as error:
        raise EvalError(str(error)) from error
    size = sum(file.stat().st_size for file in cfg.output_dir.iterdir())
    sys.stdout.write(f"kept: {cfg.output_dir}, {size / 1e6:.1f} MB\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for what can't be kept, 2 for a flag that does not parse."""
    return run_command("eval.keep_checkpoint", KeepConfig, run, argv)
