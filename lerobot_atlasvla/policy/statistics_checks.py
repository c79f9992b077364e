"""Check that a dataset's statistics have what the normalization of a policy needs, and that it divides by no zero.

LeRobot passes a feature without statistics through as it is, and notices a missing quantile in the first batch only. It
divides a dimension that never moved by 1e-8 (``lerobot/processor/normalize_processor.py``): the first time that the
dimension does move, it drowns everything else that the policy reads.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

from .config_checks import ConfigError

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

logger = logging.getLogger(__name__)


def check_statistics(config: AtlasVLAConfig, stats: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the statistics of every feature that is normalized.

    Args:
        config: Configuration with its features filled in.
        stats: Feature to statistic to values, as in a dataset's ``meta/stats.json``.

    Raises:
        ConfigError: For the first feature whose statistics are missing or not finite.
    """
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        mode = NormalizationMode(config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY))
        if "empty_camera" in key:
            continue  # no dataset has it
        known = stats.get(key, {})
        missing = [name for name in NEEDED[mode] if name not in known]
        if missing:
            raise ConfigError(
                f"The dataset's statistics (meta/stats.json) of {key} lack {', '.join(missing)}, which normalizing it "
                f"as {mode.value} needs; they have {', '.join(sorted(known)) or 'nothing'}. Compute them again with "
                "`lerobot-edit-dataset --operation.type=recompute_stats`, or choose another mode for "
                f"{feature.type.value} in --policy.normalization_mapping."
            )
        for name in NEEDED[mode]:
            if not torch.isfinite(torch.as_tensor(known[name], dtype=torch.float64)).all():
                raise ConfigError(
                    f"The dataset's statistics (meta/stats.json) of {key} have values in {name} that are not finite: "
                    f"{known[name]}. Compute them again with `lerobot-edit-dataset --operation.type=recompute_stats`."
                )


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
