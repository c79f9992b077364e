"""A dataset whose statistics can't normalize what the policy normalizes is refused, not passed through."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from lerobot.configs.types import NormalizationMode

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.policy.checks.config import ConfigError
from lerobot_atlasvla.policy.checks.statistics import unscaled_ranges
from tests.conftest import IMAGE, STATE, dataset_stats, raw_batch, tiny_config


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


def test_what_is_not_normalized_needs_no_statistics():
    stats = dataset_stats()
    del stats["action"]
    assert IMAGE not in stats
    build(stats, ACTION=NormalizationMode.IDENTITY)


def test_numbers_that_are_not_finite_are_refused():
    stats = dataset_stats()
    stats[STATE]["std"] = torch.full((8,), math.nan)
    with pytest.raises(ConfigError, match=rf"{re.escape(STATE)} have values in std that are not finite"):
        build(stats)


@pytest.mark.parametrize(
    ("mode", "wrong", "needle"),
    [
        (NormalizationMode.MEAN_STD, {"mean": 0.0, "std": math.inf}, "values in std that are not finite"),
        (NormalizationMode.MEAN_STD, {"mean": 1e300, "std": 1.0}, "values in mean that are not finite"),
        (NormalizationMode.MEAN_STD, {"mean": 0.0, "std": -1.0}, "values in std that are negative"),
        (NormalizationMode.MIN_MAX, {"min": math.nan, "max": 1.0}, "values in min that are not finite"),
        (NormalizationMode.MIN_MAX, {"min": 1.0, "max": -1.0}, "values in max that are below min"),
        (NormalizationMode.QUANTILES, {"q01": -1.0, "q99": math.nan}, "values in q99 that are not finite"),
        (NormalizationMode.QUANTILE10, {"q10": 2.0, "q90": 1.0}, "values in q90 that are below q10"),
    ],
)
@pytest.mark.parametrize(("kind", "key", "size"), [("STATE", STATE, 8), ("ACTION", "action", 7)])
def test_statistics_that_can_not_be_are_named(mode, wrong, needle, kind, key, size):
    good = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0, "q10": -1.0, "q90": 1.0}
    known = {name: torch.full((size,), good[name], dtype=torch.float64) for name in wrong}
    for name, value in wrong.items():
        known[name][3] = value
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} have {needle}.*recompute_stats"):
        build(dataset_stats() | {key: known}, **{kind: mode})


def test_statistics_of_another_robot_are_named():
    stats = dataset_stats() | {"action": {"mean": torch.zeros(6), "std": torch.ones(6)}}
    with pytest.raises(ConfigError, match=r"of action are for \[6\] numbers, but the data have 7"):
        build(stats, ACTION=NormalizationMode.MEAN_STD)


def ranges(low: list[float], high: list[float], key: str = "action") -> dict:
    return {key: {"min": torch.tensor(low), "max": torch.tensor(high)}}


DEGREES = ranges([-90.0] + [-1.0] * 6, [90.0] + [1.0] * 6)
TICKS = ranges([0.0] * 7, [4095.0] * 7)
GRIPPER = ranges([-1.0] * 6 + [0.0], [1.0] * 7)
AS_IN_LIBERO = ranges([-0.9, -1.0, -1.0, -0.2, -0.4, -1.0, -1.0], [1.0, 1.0, 1.0, 0.15, 0.3, 1.0, 1.0])


@pytest.mark.parametrize(
    ("stats", "needles"),
    [
        (DEGREES, ["dimensions 0 (-90 .. 90) lie far outside [-1, 1]"]),
        (TICKS, ["0 (0 .. 4095), 1 (0 .. 4095)", "far outside"]),
        (GRIPPER, ["dimensions 6 (0 .. 1) use only the half"]),
        (ranges([0.0] * 8, [4095.0] * 8, STATE), ["observation.state is not normalized", "far outside"]),
    ],
)
def test_numbers_that_need_scaling_and_get_none_are_warned_about(stats, needles, caplog):
    identity = {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": NormalizationMode.IDENTITY}
    AtlasVLAPolicy(
        tiny_config(normalization_mapping=identity), dataset_meta=SimpleNamespace(features={}, stats=dict(stats))
    )
    kind = "ACTION" if "action" in stats else "STATE"
    better = json.dumps({name: "MEAN_STD" if name == kind else "IDENTITY" for name in sorted(identity)})
    for needle in [*needles, f"--policy.normalization_mapping='{better}'"]:
        assert needle in caplog.text


@pytest.mark.parametrize(
    ("stats", "mode"),
    [
        (AS_IN_LIBERO, NormalizationMode.IDENTITY),
        (DEGREES, NormalizationMode.MIN_MAX),
        (GRIPPER, NormalizationMode.MEAN_STD),
        ({"action": {"mean": torch.zeros(7)}}, NormalizationMode.IDENTITY),
    ],
)
def test_what_needs_no_scaling_or_gets_it_gives_no_warning(stats, mode):
    identity = dict.fromkeys(("VISUAL", "STATE"), NormalizationMode.IDENTITY)
    assert unscaled_ranges(tiny_config(normalization_mapping=identity | {"ACTION": mode}), stats) is None


MODES = [
    (NormalizationMode.MEAN_STD, {"mean": 3.0, "std": 0.0}),
    (NormalizationMode.MEAN_STD, {"mean": 3.0, "std": 1e-5}),
    (NormalizationMode.MIN_MAX, {"min": 3.0, "max": 3.0}),
    (NormalizationMode.QUANTILES, {"q01": 3.0, "q99": 3.0 + 1e-5}),
    (NormalizationMode.QUANTILE10, {"q10": 3.0, "q90": 3.0}),
]


def with_constant(mode: NormalizationMode, constant: dict[str, float], key: str, size: int) -> dict:
    """The dataset's statistics, dimension 2 of the feature constant."""
    moving = {"mean": 0.5, "std": 2.0, "min": -1.5, "max": 2.5, "q01": -1.5, "q99": 2.5, "q10": -1.5, "q90": 2.5}
    values = {name: torch.full((size,), moving[name]) for name in constant}
    for name, value in constant.items():
        values[name][2] = value
    return dataset_stats() | {key: values}


@pytest.mark.parametrize(("mode", "constant"), MODES)
def test_a_state_that_never_moved_is_shifted_but_not_scaled_up(mode, constant, caplog):
    config = tiny_config()
    config.normalization_mapping = config.normalization_mapping | {"STATE": mode}
    preprocess, _ = make_atlasvla_pre_post_processors(config, with_constant(mode, constant, STATE, 8))
    batch = raw_batch()
    batch[STATE] = torch.full_like(batch[STATE], 3.25)
    state = preprocess(batch)[STATE]
    torch.testing.assert_close(state[:, 2], torch.full_like(state[:, 2], 0.25), atol=2e-5, rtol=0)
    # The others as always.
    torch.testing.assert_close(state[:, 1], torch.full_like(state[:, 1], (3.25 - 0.5) / 2))
    assert caplog.text.count("hardly moves in dimension 2 of the dataset") == 1


@pytest.mark.parametrize(("mode", "constant"), [MODES[0], *MODES[2:3], MODES[4]])
def test_an_action_that_never_moved_is_what_it_was(mode, constant):
    config = tiny_config()
    config.normalization_mapping = config.normalization_mapping | {"ACTION": mode}
    preprocess, postprocess = make_atlasvla_pre_post_processors(config, with_constant(mode, constant, "action", 7))
    batch = raw_batch()
    batch["action"][..., 2] = 3.0
    action = preprocess(batch)["action"]
    assert (action[..., 2] == 0).all()
    torch.testing.assert_close(postprocess(action), batch["action"])


def test_a_small_action_is_not_taken_for_a_constant(caplog):
    config = tiny_config()
    mode = NormalizationMode.MEAN_STD
    config.normalization_mapping = config.normalization_mapping | {"ACTION": mode}
    stats = with_constant(mode, {"mean": 0.0, "std": 2e-5}, "action", 7)
    preprocess, _ = make_atlasvla_pre_post_processors(config, stats)
    batch = raw_batch()
    batch["action"][..., 2] = 2e-5
    torch.testing.assert_close(
        preprocess(batch)["action"][..., 2], torch.ones_like(batch["action"][..., 2]), rtol=1e-3, atol=0
    )
    assert "hardly moves" not in caplog.text


def test_integer_statistics_become_floats(tmp_path):
    stats = dataset_stats()
    stats[STATE] = {"mean": torch.full((8,), 512), "std": torch.full((8,), 7)}
    preprocess, _ = make_atlasvla_pre_post_processors(tiny_config(), stats)
    state = preprocess(raw_batch() | {STATE: torch.full((3, 8), 519)})[STATE]
    torch.testing.assert_close(state, torch.ones(3, 8))


def test_fine_tuning_gets_them_too():
    """LeRobot hands the metadata's statistics to the pipelines of the checkpoint that it fine-tunes."""
    stats = dataset_stats()
    stats[STATE]["std"][4] = 0
    meta = SimpleNamespace(features={}, stats=stats)
    AtlasVLAPolicy(tiny_config(), dataset_meta=meta)
    assert meta.stats[STATE]["std"].tolist()[4] == 1
