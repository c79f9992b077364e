"""Check a checkpoint's pipelines before LeRobot builds them: their steps, settings and statistics.

LeRobot passes through what it has no statistics for, and computes with whatever numbers a file has; a damaged pipeline
then gives wrong actions and no error. Which code a step may name is checked in ``pipeline_files``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_STATE
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lerobot_atlasvla.policy.checks.config import COUNTS, ConfigError
from lerobot_atlasvla.policy.checks.statistics import NEEDED, check_feature

from .end_effector_step import END_EFFECTOR_STEP
from .files import FILES, PipelineError, find_file
from .tokenizer_step import STEP_NAME, SelfContainedTokenizerStep

_NORMALIZERS = ("normalizer_processor", "unnormalizer_processor")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The steps without which each pipeline would do something else.
_NEEDED = {
    FILES[0]: ("to_batch_processor", STEP_NAME, "device_processor", _NORMALIZERS[0]),
    FILES[1]: (_NORMALIZERS[1],),
}
_IDENTITY = NormalizationMode.IDENTITY
_REMEDY = "Copy or download the checkpoint again."


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _dictionary(value: Any) -> bool:
    return isinstance(value, dict)


_Rules = dict[str, Callable[[Any], bool]]
_NORMALIZER_RULES: _Rules = {
    "eps": lambda value: type(value) is float and 0 < value <= 1,
    "features": _dictionary,
    "norm_map": _dictionary,
    "normalize_observation_keys": lambda value: isinstance(value, list) and all(map(_text, value)),
}
# Settings that LeRobot would stumble over later, or not at all.
_SETTINGS: dict[str, _Rules] = {
    "rename_observations_processor": {
        "rename_map": lambda value: _dictionary(value) and all(map(_text, value.values()))
    },
    "to_batch_processor": {},
    STEP_NAME: {
        "max_length": lambda value: type(value) is int and 1 <= value <= COUNTS["tokenizer_max_length"][1],
        "task_key": _text,
        "padding_side": lambda value: value in ("left", "right"),
        "padding": lambda value: value in ("longest", "max_length"),
        "truncation": lambda value: value is True,
    },
    "device_processor": {
        "device": lambda value: _text(value) and value.partition(":")[0] in ("cpu", "cuda", "mps", "xpu"),
        "float_dtype": lambda value: value in (None, "bfloat16", "float16", "float32", "float64"),
    },
    END_EFFECTOR_STEP: {"state_keys": lambda value: isinstance(value, list) and all(map(_text, value))},
    _NORMALIZERS[0]: _NORMALIZER_RULES,
    _NORMALIZERS[1]: _NORMALIZER_RULES,
}


def check_saved_pipelines(checkpoint: str | Path, **hub: Any) -> None:
    """Check both pipelines of a checkpoint, after ``check_pipelines``. One that is not there is left to LeRobot.

    Args:
        checkpoint: A folder, or the id of a model on the Hub.
        hub: Arguments of ``from_pretrained`` that choose a version on the Hub; others are ignored.

    Raises:
        PipelineError: If a step is missing, twice there or has a setting that can't work, normalizes otherwise than
            the checkpoint's config.json says, or its state is missing, damaged, or has numbers that are not finite.
    """
    saved = _read_config(find_file(checkpoint, "config.json", **hub))
    for name in FILES:
        file = find_file(checkpoint, name, **hub)
        if file is not None:
            steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
            _check_steps(file, name, steps)
            for step in steps:
                state = None
                if step.get("state_file") is not None:
                    state = _read_state(find_file(checkpoint, step["state_file"], **hub), file, step["state_file"])
                if _name(step) in _NORMALIZERS:
                    _check_normalizer(file, step, state, saved)
                elif _name(step) == STEP_NAME:
                    _check_tokenizer(file, state, saved)


def check_instruction_length(checkpoint: str | Path, asked: int, **hub: Any) -> None:
    """Check that a checkpoint that is trained on cuts instructions where its configuration says.

    LeRobot keeps the saved pipeline, whatever ``--policy.tokenizer_max_length`` says.

    Args:
        checkpoint: A folder, or the id of a model on the Hub.
        asked: The configuration's ``tokenizer_max_length``.
        hub: As in :func:`check_saved_pipelines`.

    Raises:
        PipelineError: If the preprocessor has another limit.
    """
    file = find_file(checkpoint, FILES[0], **hub)
    steps = [] if file is None else json.loads(file.read_text(encoding="utf-8"))["steps"]
    for step in steps:
        kept = step.get("config", {}).get("max_length", asked)
        if _name(step) == STEP_NAME and kept != asked:
            raise PipelineError(
                f"{file} cuts instructions to {kept} tokens, and is kept when its checkpoint is trained on: leave out "
                f"--policy.tokenizer_max_length={asked}, or change max_length in that file."
            )


def _is_vector(key: str) -> bool:
    """Return whether a feature is the action, the state or a part of a split state."""
    return key in (ACTION, OBS_STATE) or key.startswith(f"{OBS_STATE}.")


def _name(step: Mapping[str, Any]) -> str:
    # Checkpoints from before 26 November 2026 name our step by its import path, the only one allowed.
    return step.get("registry_name") or STEP_NAME


def _check_steps(file: Path, name: str, steps: list[dict[str, Any]]) -> None:
    names = [_name(step) for step in steps]
    for needed in _NEEDED[name]:
        if names.count(needed) != 1:
            raise PipelineError(f"{file} has the step {needed!r} {names.count(needed)} times, not once. {_REMEDY}")
    for step, kind in zip(steps, names, strict=True):
        settings = step.get("config", {})
        if not isinstance(settings, dict):
            raise PipelineError(f"{file} has settings of the step {kind!r} that are no dictionary. {_REMEDY}")
        rules = _SETTINGS.get(kind, dict.fromkeys(settings, lambda _: True))
        for key, value in settings.items():
            if key not in rules or not rules[key](value):
                raise PipelineError(
                    f"{file} has {key} = {str(value)[:100]} for the step {kind!r}, which can't work. {_REMEDY}"
                )


def _read_state(file: Path | None, pipeline: Path, name: str) -> dict[str, Tensor]:
    if file is None:
        raise PipelineError(f"{pipeline} keeps a step's state in {name}, which is not there. {_REMEDY}")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise PipelineError(f"{file} is damaged or incomplete ({error}). {_REMEDY}") from error


def _check_normalizer(file: Path, step: Mapping[str, Any], state: Mapping[str, Tensor] | None, saved: _Saved) -> None:
    settings = step.get("config", {})
    try:
        features = {
            key: PolicyFeature(FeatureType(feature["type"]), tuple(feature["shape"]))
            for key, feature in settings["features"].items()
        }
        modes = {FeatureType(kind).value: NormalizationMode(mode) for kind, mode in settings["norm_map"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{file} has a step {_name(step)!r} whose features or norm_map can't be read ({error}). {_REMEDY}"
        ) from error
    _check_against(file, features, modes, saved)
    checked = {key: feature for key, feature in features.items() if _is_vector(key)}
    stats: dict[str, dict[str, Tensor]] = {}
    for name, tensor in (state or {}).items():
        key, _, statistic = name.rpartition(".")
        stats.setdefault(key, {})[statistic] = tensor
        if key in checked and (tensor.dtype not in _FLOATS or not tensor.isfinite().all()):
            raise PipelineError(f"{file.parent / step['state_file']} has {name} that is not finite: {tensor.tolist()}.")
    normalized = [key for key, feature in checked.items() if NEEDED[modes.get(feature.type.value, _IDENTITY)]]
    # A policy that was saved without statistics has none in any file.
    if normalized and (state is not None or any(file.parent.glob(f"{file.stem}_step_*{_name(step)}.safetensors"))):
        try:
            for key in normalized:
                mode = modes[checked[key].type.value]
                check_feature(key, checked[key], mode, stats.get(key, {}), f"The statistics of {file}", _REMEDY)
        except ConfigError as error:
            raise PipelineError(str(error)) from error


def _check_tokenizer(file: Path, state: dict[str, Tensor] | None, saved: _Saved) -> None:
    if not state:
        raise PipelineError(f"{file} has a tokenizer without its state_file. {_REMEDY}")
    step = SelfContainedTokenizerStep()
    try:
        step.load_state_dict(state)
        tokens = len(step.input_tokenizer)
    except Exception as error:  # the tokenizers library has no class of its own for its errors
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise PipelineError(f"{file} has a tokenizer that can't be read ({reason}). {_REMEDY}") from error
    if saved.vocabulary is not None and tokens > saved.vocabulary:
        raise PipelineError(
            f"{file} has a tokenizer of {tokens} tokens, but the language model of config.json knows "
            f"{saved.vocabulary}. {_REMEDY}"
        )


@dataclass(frozen=True)
class _Saved:
    """Holds what the checkpoint's own config.json says, which a passed configuration may depart from.

    Attributes:
        shapes: Of state and action; empty without a config.json.
        modes: Feature type to normalization; ``None`` without a config.json.
        vocabulary: Tokens that the language model knows, if that is known.
    """

    shapes: dict[str, list[int]]
    modes: dict[str, str] | None
    vocabulary: int | None


def _read_config(file: Path | None) -> _Saved:
    if file is None:
        return _Saved({}, None, None)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        features = {**(config.get("input_features") or {}), **(config.get("output_features") or {})}
        shapes = {key: list(feature["shape"]) for key, feature in features.items() if _is_vector(key)}
        language = (config.get("backbone_architectures") or {}).get("language", {})
        return _Saved(shapes, dict(config.get("normalization_mapping") or {}), language.get("vocab_size"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PipelineError(f"{file} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error


def _check_against(
    file: Path, features: Mapping[str, PolicyFeature], modes: Mapping[str, NormalizationMode], saved: _Saved
) -> None:
    """Check that a pipeline normalizes what the checkpoint's own config.json says, as it says."""
    for key in saved.shapes if file.name == FILES[0] else saved.shapes.keys() & {ACTION}:
        if key not in features or list(features[key].shape) != saved.shapes[key]:
            found = list(features[key].shape) if key in features else "nothing"
            raise PipelineError(
                f"{file} is for {key} of shape {found}, but config.json says {saved.shapes[key]}. {_REMEDY}"
            )
    for kind in (FeatureType.STATE.value, FeatureType.ACTION.value):
        found = modes.get(kind, _IDENTITY).value
        wanted = found if saved.modes is None else saved.modes.get(kind, _IDENTITY.value)
        if found != wanted:
            raise PipelineError(f"{file} normalizes {kind} by {found}, but config.json says {wanted}. {_REMEDY}")
