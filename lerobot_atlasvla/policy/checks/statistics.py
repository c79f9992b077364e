"""Check that a dataset's statistics have what the normalization of a policy needs, and that it divides by no zero.

LeRobot passes a feature without statistics through as it is, and notices a missing quantile in the first batch only. It
divides a dimension that never moved by 1e-8 (``lerobot/processor/normalize_processor.py``): the first time that the
dimension does move, it drowns everything else that the policy reads.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

from .config import ConfigError

NEEDED: dict[NormalizationMode, tuple[str, ...]] = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}

# A dimension whose spread is below this share of its size (of 1, if it is smaller) is taken for constant. An input that
# moves so little says nothing; an action may be small and mean it.
_CONSTANT_BELOW = {FeatureType.STATE: 1e-4, FeatureType.VISUAL: 1e-4, FeatureType.ACTION: 1e-6}

# Numbers beyond which data that are not normalized are taken for degrees, ticks or the like. Actions are what the loss
# is made of; a state of meters and radians does no harm.
_UNSCALED_BEYOND = {FeatureType.ACTION: 1.5, FeatureType.STATE: 10.0}

_LARGEST = 1e12
_SOURCE = "The dataset's statistics (meta/stats.json)"
_REMEDY = "Compute them again with `lerobot-edit-dataset --operation.type=recompute_stats`."

logger = logging.getLogger(__name__)


def check_statistics(config: AtlasVLAConfig, stats: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the statistics of every feature that is normalized.

    Args:
        config: Configuration with its features filled in.
        stats: Feature to statistic to values, as in a dataset's ``meta/stats.json``.

    Raises:
        ConfigError: For the first feature whose statistics are missing, not finite, of another size or contradictory.
    """
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        mode = NormalizationMode(config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY))
        if "empty_camera" not in key:  # no dataset has it
            check_feature(key, feature, mode, stats.get(key, {}), _SOURCE, _REMEDY)


def check_feature(
    key: str, feature: PolicyFeature, mode: NormalizationMode, known: Mapping[str, Any], source: str, remedy: str
) -> None:
    """Check the statistics of one feature.

    Args:
        key: Its name.
        feature: Its type and shape.
        mode: How it is normalized.
        known: Statistic to values.
        source: What the statistics are, for messages.
        remedy: What to do about them, for messages.

    Raises:
        ConfigError: If they are missing, not finite, of another size or contradictory.
    """
    missing = [name for name in NEEDED[mode] if name not in known]
    if missing:
        raise ConfigError(
            f"{source} of {key} lack {', '.join(missing)}, which normalizing it as {mode.value} needs; they have "
            f"{', '.join(sorted(known)) or 'nothing'}. {remedy} Or choose another mode for {feature.type.value} in "
            "--policy.normalization_mapping."
        )
    for name in NEEDED[mode]:
        # Policies compute in float32, where products of large numbers become infinite.
        if not (torch.as_tensor(known[name]).double().abs() <= _LARGEST).all():
            raise ConfigError(
                f"{source} of {key} have values in {name} that are not finite, or beyond {_LARGEST:g}: "
                f"{_listed(known[name])}. {remedy}"
            )
    if NEEDED[mode]:
        _check_order(f"{source} of {key}", feature, mode, known, remedy)


def _check_order(
    source: str, feature: PolicyFeature, mode: NormalizationMode, known: Mapping[str, Any], remedy: str
) -> None:
    """Check the size of finite statistics, and that no spread is negative."""
    first, second = (torch.as_tensor(known[name]).double() for name in NEEDED[mode])
    sizes = {value.numel() for value in (first, second)}
    if feature.type is not FeatureType.VISUAL and sizes != {feature.shape[0]}:
        raise ConfigError(f"{source} are for {sorted(sizes)} numbers, but the data have {feature.shape[0]}. {remedy}")
    negative = second < (torch.zeros_like(second) if mode is NormalizationMode.MEAN_STD else first)
    if negative.any():
        what = "negative" if mode is NormalizationMode.MEAN_STD else f"below {NEEDED[mode][0]}"
        raise ConfigError(
            f"{source} have values in {NEEDED[mode][1]} that are {what}: {_listed(known[NEEDED[mode][1]])}. {remedy}"
        )


def _listed(values: Any) -> list[float]:
    return torch.as_tensor(values).flatten().tolist()


def unscaled_ranges(config: AtlasVLAConfig, stats: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a warning if data that are not normalized do not lie in [-1, 1] by themselves.

    Errors in degrees or ticks outweigh everything else in the loss, and a small network can't even reach such numbers.

    Args:
        config: Configuration with its features filled in.
        stats: Feature to statistic to values, as in a dataset's ``meta/stats.json``.
    """
    found: list[str] = []
    modes = {kind: NormalizationMode(mode).value for kind, mode in config.normalization_mapping.items()}
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        limit = _UNSCALED_BEYOND.get(feature.type)
        mode = NormalizationMode(config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY))
        if limit is None or mode is not NormalizationMode.IDENTITY or not {"min", "max"} <= stats.get(key, {}).keys():
            continue
        low, high = (torch.as_tensor(stats[key][name]).double().flatten() for name in ("min", "max"))
        beyond = (low < -limit) | (high > limit)
        # LIBERO's gripper is -1 (open) or 1 (closed), RLDS's 1 or 0.
        half = (low.abs() < 0.05) & ((high - 1).abs() < 0.05) & (feature.type is FeatureType.ACTION)
        for which, how in ((beyond, "lie far outside [-1, 1]"), (half, "use only the half from 0 to 1 of [-1, 1]")):
            ranges = [f"{i} ({low[i].item():.4g} .. {high[i].item():.4g})" for i in which.nonzero().flatten().tolist()]
            if ranges:
                found.append(f"{key} is not normalized (IDENTITY), and its dimensions {', '.join(ranges)} {how}")
                modes[feature.type.value] = NormalizationMode.MEAN_STD.value
    if not found:
        return None
    return f"{'; '.join(found)}. Scale them, or use --policy.normalization_mapping='{json.dumps(modes)}'."


def usable_statistics(config: AtlasVLAConfig, stats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return statistics with which no dimension is divided by nearly zero, after :func:`check_statistics`.

    A dimension that does not move in the dataset is only shifted to 0 and divided by 1, whatever the mode; a warning
    names it. The statistics of normalized features come back as float32 (datasets with integer states have integer
    ones), all others as they are.

    Args:
        config: Configuration with its features filled in.
        stats: Feature to statistic to values, as in a dataset's ``meta/stats.json``; left unchanged.

    Raises:
        ConfigError: As :func:`check_statistics`.
    """
    check_statistics(config, stats)
    usable: dict[str, dict[str, Any]] = {key: dict(known) for key, known in stats.items()}
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        mode = NormalizationMode(config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY))
        if key not in stats or mode is NormalizationMode.IDENTITY:
            continue
        values = {name: torch.as_tensor(known) for name, known in stats[key].items()}
        known = {name: value.to(torch.float32) for name, value in values.items()}
        first, second = NEEDED[mode]
        # Differences in float64: in float32 a constant of 1e6 seems to move by 0.06.
        low, high = values[first].double(), values[second].double()
        center, spread = (low, high) if mode is NormalizationMode.MEAN_STD else ((low + high) / 2, (high - low) / 2)
        constant = spread <= _CONSTANT_BELOW[feature.type] * center.abs().clamp(min=1)
        if constant.any():
            known[first], known[second] = _neutral(mode, constant, center, known[first], known[second])
            logger.warning(
                "%s hardly moves in dimension %s of the dataset: these are shifted to 0, but not scaled up "
                "(%s in --policy.normalization_mapping).",
                key,
                ", ".join(str(index) for index in constant.flatten().nonzero().flatten().tolist()),
                f"{feature.type.value}: {mode.value}",
            )
        usable[key] = dict(known)
    return usable


def _neutral(
    mode: NormalizationMode, constant: Tensor, center: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace the two statistics of constant dimensions by those that subtract the center and divide by 1."""
    center = center.to(first.dtype)
    if mode is NormalizationMode.MEAN_STD:
        return first, torch.where(constant, torch.ones_like(second), second)
    # The other modes map [first, second] to [-1, 1].
    return torch.where(constant, center - 1, first), torch.where(constant, center + 1, second)
