"""Checkpoints on disk: ``config.json`` and ``model.safetensors``, without frozen backbones that nothing has changed.

The header of ``model.safetensors`` lists the backbones it leaves out; ``config.json`` has source, revision and digest
of each. Loading reads exactly those from their sources, and everything else must be in the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from draccus.utils import DraccusException
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HFValidationError
from lerobot.configs.policies import PreTrainedConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.files.safetensors_files import save_tensors
from lerobot_atlasvla.policy.checks.types import shown

from . import backbones
from .download import WeightsError, listing
from .fine_tuning import fit_to_dataset
from .tensor_files import not_finite, other_kinds

if TYPE_CHECKING:
    from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy

logger = logging.getLogger(__name__)

# What LeRobot raises for a config.json, or a train_config.json, that is damaged or of something else.
UNREADABLE_CONFIG = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RecursionError,
    IsADirectoryError,
    DraccusException,
)
_REFERENCES = "atlasvla_references"
# What the settings begin with that give weights other names or shapes.
_SIZES = (
    "chunk_size",
    "views",
    "empty_cameras",
    "image_size",
    "use_state",
    "vision",
    "vggt_",
    "da3_",
    "language_",
    "fusion",
    "decoder_",
    "num_action_queries",
    "query_conditioning",
    "condition_",
    "summary_",
    "head",
    "flow_",
)
# A tensor that only checkpoints from before 26 November 2026 have (up to commit b6cd926).
_GATE = "geometry_gate"
# Only checkpoints from before 27 November 2026 have the first without the second (up to commit 849e219).
_PROTOTYPES, _CENTERS = "landmarks.prototypes_VKE", "landmarks.centers_VK3"


def prefixes(policy: nn.Module, parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return what the policy's state-dict names of each part start with."""
    names = {id(module): name for name, module in policy.named_modules()}
    return {part: f"{names[id(module)]}." for part, module in parts.items()}


def save(policy: AtlasVLAPolicy, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write a policy's checkpoint; each of its two files appears complete or not at all.

    Args:
        policy: The policy.
        folder: Where.
        state: Its state dict, gathered from all processes if it is sharded.

    Raises:
        WeightsError: If a weight is not finite.
    """
    parts, record = policy.model.backbones(), policy.backbone_record
    unchanged = record.unchanged(parts)
    for name in record.fingerprints.keys() - set(unchanged):
        logger.warning("The frozen %s is not what its source gave any more, so the checkpoint includes it.", name)
    whole = policy.config.save_full_weights
    left_out = {} if whole else prefixes(policy, {name: parts[name] for name in unchanged})
    starts = tuple(left_out.values())
    kept = {name: tensor.detach().contiguous() for name, tensor in state.items() if not name.startswith(starts)}
    if bad := not_finite(kept):
        raise WeightsError(
            f"{folder} is not written, for these weights are not finite: {listing(sorted(bad))}. Training diverged: "
            "lower --policy.optimizer_lr, and go on from an earlier checkpoint."
        )
    with replacing(folder / SAFETENSORS_SINGLE_FILE) as scratch:
        save_tensors(kept, scratch, {"format": "pt", _REFERENCES: json.dumps(sorted(left_out))})
        # Only now: on a full disk the previous checkpoint stays as it was.
        policy.config._save_pretrained(folder)


def read_config(checkpoint: str | Path, **arguments: Any) -> AtlasVLAConfig:
    """Read the ``config.json`` of a checkpoint.

    Args:
        checkpoint: A folder, or the id of a model on the Hub.
        arguments: Those of LeRobot's ``PreTrainedConfig.from_pretrained``; ``config`` is ignored.

    Raises:
        WeightsError: If it is damaged, has a setting that can't work, or is another policy's.
        FileNotFoundError: If there is none.
    """
    arguments.pop("config", None)
    try:
        config = PreTrainedConfig.from_pretrained(checkpoint, **arguments)
    except HFValidationError:  # no folder, and no id either: the message says which ids there are
        raise
    except UNREADABLE_CONFIG as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise WeightsError(f"The config.json of {checkpoint} can't be used: {reason}") from error
    if not isinstance(config, AtlasVLAConfig):
        raise WeightsError(f"{checkpoint} is a policy of type {config.type}, not atlasvla.")
    return config


def load(policy: AtlasVLAPolicy, file: Path) -> None:
    """Fill a policy from its ``model.safetensors``, and the backbones that this leaves out from their sources.

    Args:
        policy: The policy; its pretrained backbones have no memory yet.
        file: The weights.

    Raises:
        WeightsError: If the checkpoint is damaged or does not fit, or a source is missing or another one.
    """
    config, parts = policy.config, policy.model.backbones()
    tensors, left_out = _read(file)
    starts = prefixes(policy, {name: parts[name] for name in backbones.pretrained_parts(config)})
    if unknown := sorted(set(left_out) - set(starts)):
        raise WeightsError(f"{file} refers to {unknown}, which this policy's config.json does not take from a source.")
    if (saved := _saved_config(file.parent)) is not None:
        policy.departs_from_checkpoint = fit_to_dataset(policy, saved, file, tensors)
    try:
        _check_fit(policy, file, tensors, tuple(starts[name] for name in left_out))
    except WeightsError as error:
        if saved is None or not (changed := _changed(saved, config)):
            raise
        raise WeightsError(f"{error} The checkpoint was made with other settings: {', '.join(changed)}.") from error
    for name, start in starts.items():
        if name in left_out:
            policy.backbone_record.load_from_checkpoint(name, parts[name])
        else:
            inside = {key.removeprefix(start): tensors.pop(key) for key in list(tensors) if key.startswith(start)}
            backbones.fill(parts[name], inside, backbones.part_dtype(config, name))
    # Names and shapes have been checked; what is not in the file is filled.
    policy.load_state_dict(tensors, strict=False)


def _read(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a checkpoint and the backbones it leaves out."""
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; a checkpoint's folder has a model.safetensors (--policy.path).")
    try:
        with safe_open(file, framework="pt") as handle:
            left_out = json.loads((handle.metadata() or {}).get(_REFERENCES, "[]"))
            if not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
                raise ValueError(f"{_REFERENCES} is {left_out!r}")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    # What PyTorch raises for a dtype that it does not know is not told apart.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{file} is damaged or incomplete ({error}). Copy or download it again.") from error
    if any(name.endswith(_GATE) for name in tensors):
        raise WeightsError(
            f"{file} was trained when images could reach the actions past VGGT's blocks, which is no longer built; use "
            "it with AtlasVLA at commit b6cd926, or train again."
        )
    if any(name.endswith(_PROTOTYPES) for name in tensors) and not any(name.endswith(_CENTERS) for name in tensors):
        raise WeightsError(
            f"{file} was trained on landmarks in meters, which are now in units of 10 cm; use it with AtlasVLA at "
            "commit 849e219, or train again."
        )
    return tensors, left_out


def _saved_config(folder: Path) -> AtlasVLAConfig | None:
    """Return a checkpoint's own settings, which the policy's may depart from; ``None`` if they can't be read."""
    try:
        # Where it runs does not matter here, and LeRobot would warn of a missing GPU a second time.
        config = PreTrainedConfig.from_pretrained(folder, local_files_only=True, cli_overrides=["--device=cpu"])
    except (FileNotFoundError, *UNREADABLE_CONFIG):
        return None
    return config if isinstance(config, AtlasVLAConfig) and config.input_features and config.output_features else None


def _changed(saved: AtlasVLAConfig, config: AtlasVLAConfig) -> list[str]:
    """Return the flags that give a policy other weights than its checkpoint, and the checkpoint's own values."""
    names = [field.name for field in fields(config) if field.name.startswith(_SIZES)]
    pairs = {name: (getattr(saved, name), getattr(config, name)) for name in names}
    return [
        f"--policy.{name} was {shown(before)}, not {shown(now)}"
        for name, (before, now) in pairs.items()
        if before != now
    ]


def _check_fit(policy: nn.Module, file: Path, tensors: Mapping[str, Tensor], left_out: tuple[str, ...]) -> None:
    """Raise if the file and the backbones it leaves out are not exactly the policy's state dict, all finite."""
    expected = {name: t for name, t in policy.state_dict().items() if not name.startswith(left_out)}
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    problems = {
        "missing": expected.keys() - tensors.keys(),
        "unexpected": tensors.keys() - expected.keys(),
        "of another shape": other,
        "of another kind": other_kinds(tensors, expected),
    }
    if found := [f"{what}: {listing(sorted(names))}" for what, names in problems.items() if names]:
        raise WeightsError(f"{file} does not fit its config.json: {'; '.join(found)}.")
    if bad := not_finite(tensors):
        raise WeightsError(
            f"{file} has weights that are not finite: {listing(sorted(bad))}. Training diverged, or the file is "
            "damaged: take an earlier checkpoint, or copy it again."
        )
