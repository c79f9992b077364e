"""A dataset whose statistics can't normalise what the policy normalises is refused, not passed through."""

import math
import re

import pytest
import torch
from lerobot.configs.types import NormalizationMode

from lerobot_atlasvla import make_atlasvla_pre_post_processors
from lerobot_atlasvla.config_checks import ConfigError
from tests.conftest import IMAGE, STATE, dataset_stats, tiny_config


def build(stats: dict, **modes: NormalizationMode) -> None:
    config = tiny_config()
    config.normalization_mapping = config.normalization_mapping | modes
    make_atlasvla_pre_post_processors(config, stats)


def test_complete_statistics_are_accepted():
    build(dataset_stats())


@pytest.mark.parametrize("feature", [STATE, "action"])
def test_a_feature_without_statistics_is_named(feature):
    stats = dataset_stats()
    del stats[feature]
    mode = NormalizationMode.MEAN_STD
    with pytest.raises(ConfigError, match=rf"{re.escape(feature)} lack mean, std.*have nothing.*normalization_mapping"):
        build(stats, STATE=mode, ACTION=mode)


def test_missing_quantiles_are_named():
    with pytest.raises(ConfigError, match=r"action lack q01, q99.*as QUANTILES.*have mean, std"):
        build(dataset_stats(), ACTION=NormalizationMode.QUANTILES)


def test_what_is_not_normalised_needs_no_statistics():
    stats = dataset_stats()
    del stats["action"]
    assert IMAGE not in stats
    build(stats, ACTION=NormalizationMode.IDENTITY)


def test_numbers_that_are_not_finite_are_refused():
    stats = dataset_stats()
    stats[STATE]["std"] = torch.full((8,), math.nan)
    with pytest.raises(ConfigError, match=rf"{re.escape(STATE)} have values in std that are not finite"):
        build(stats)
