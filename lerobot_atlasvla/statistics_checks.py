"""Check that a dataset's statistics have what the normalisation of a policy needs.

LeRobot passes a feature without statistics through as it is, and notices a missing quantile in the first batch only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs.types import NormalizationMode

from .config_checks import ConfigError
from .configuration_atlasvla import AtlasVLAConfig

NEEDED = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


def check_statistics(config: AtlasVLAConfig, stats: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the statistics of every feature that is normalised.

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
                f"The dataset's statistics (meta/stats.json) of {key} lack {', '.join(missing)}, which normalising it "
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
