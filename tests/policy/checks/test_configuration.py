"""Every value that can't work is refused, with its name, the value, what is allowed and the flag."""

import dataclasses
import json
import math

import draccus
import pytest
from draccus.utils import DraccusException
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.configuration_atlasvla import ConfigError
from lerobot_atlasvla.model.atlasvla import AtlasVLA
from lerobot_atlasvla.model.sizes.memory import parameter_counts
from lerobot_atlasvla.policy.checks.config import COUNTS, NUMBERS
from lerobot_atlasvla.policy.checks.setting_types import Count, Number
from tests.conftest import IMAGE, STATE, WRIST, tiny_config
from tests.golden.kept_actions import CHECKPOINTS, NAMES


@pytest.mark.parametrize(
    ("overrides", "needles"),
    [
        ({"chunk_size": 0}, ["chunk_size", "0", "--policy.chunk_size"]),
        (
            {"chunk_size": 5, "n_action_steps": 6},
            ["n_action_steps", "1 .. chunk_size = 5", "got 6", "--policy.n_action_steps"],
        ),
        ({"n_action_steps": 0}, ["n_action_steps", "got 0"]),
        ({"n_obs_steps": 2}, ["n_obs_steps", "2"]),
        ({"image_size": (30, 32)}, ["image_size", "(30, 32)", "[32, 32]", "--policy.image_size"]),
        ({"image_size": (32,)}, ["image_size", "(32,)"]),
        ({"random_shift": 32}, ["random_shift", "0 .. 31", "--policy.random_shift"]),
        ({"random_shift": -1}, ["random_shift", "-1"]),
        ({"vggt_init": "imagenet"}, ["vggt_init", "'imagenet'", "pretrained, random", "--policy.vggt_init"]),
        ({"language_init": "none"}, ["language_init", "'none'", "--policy.language_init"]),
        ({"dtype": "float64"}, ["dtype", "float32, bfloat16", "'float64'"]),
        ({"vggt_embed_dim": 30}, ["vggt_embed_dim", "4 x vggt_num_heads = 8", "30", "--policy.vggt_num_heads"]),
        ({"decoder_num_heads": 3}, ["decoder_hidden_size", "--policy.decoder_num_heads"]),
        ({"decoder_num_heads": 0}, ["decoder_hidden_size"]),
        ({"language_hidden_size": 15}, ["language_hidden_size", "15"]),
        ({"vggt_output_layers": (2,)}, ["vggt_output_layers", "0 .. 1", "(2,)", "--policy.vggt_depth"]),
        ({"vggt_output_layers": ()}, ["vggt_output_layers"]),
        ({"vggt_output_layers": (1, 0)}, ["ascending"]),
        ({"summary_keypoints": 0}, ["summary_keypoints", "at least 1", "--policy.summary_keypoints"]),
        ({"optimizer_lr": math.nan}, ["optimizer_lr", "(0, 1)", "got nan", "--policy.optimizer_lr"]),
        ({"optimizer_lr": -1e-4}, ["optimizer_lr", "got -0.0001"]),
        ({"optimizer_backbone_lr": math.inf}, ["optimizer_backbone_lr", "got inf"]),
        ({"optimizer_betas": (0.9, 1.0)}, ["optimizer_betas", "[0, 1)", "(0.9, 1.0)", "--policy.optimizer_betas"]),
        ({"optimizer_weight_decay": -1}, ["optimizer_weight_decay", "-1"]),
        ({"optimizer_grad_clip_norm": -1.0}, ["optimizer_grad_clip_norm", "[0, 1e+06]"]),
        ({"scheduler_warmup_steps": -5}, ["scheduler_warmup_steps", "at least 0"]),
        ({"vggt_layer_scale_init": 0.0}, ["vggt_layer_scale_init", "(0, 10]", "--policy.vggt_layer_scale_init"]),
        ({"vggt_patch_size": 0}, ["vggt_patch_size", "at least 1", "--policy.vggt_patch_size"]),
        ({"vggt_patch_size": 6, "image_size": (36, 36)}, ["vggt_patch_size", "power of two", "got 6"]),
        ({"vggt_patch_embed": "resnet"}, ["vggt_patch_embed", "conv_stem, conv, dinov2", "'resnet'"]),
        ({"vggt_patch_embed": "dinov2_vitb14_reg"}, ["768", "got vggt_embed_dim 32", "--policy.vggt_embed_dim"]),
        ({"vggt_depth": 10**8}, ["vggt_depth", "at most 256", "100000000", "--policy.vggt_depth"]),
        ({"language_num_layers": 10**8}, ["language_num_layers", "at most 256"]),
        ({"condition_hidden_size": 10**9}, ["condition_hidden_size", "at most 65536"]),
        ({"image_size": (10**6, 32)}, ["image_size", "2048 pixels", "1000000"]),
        ({"image_size": (2048, 2048)}, ["image_size", "16384 patches", "2048"]),
        ({"chunk_size": "10"}, ["chunk_size must be a whole number", "'10'", "--policy.chunk_size"]),
        ({"vggt_depth": True}, ["vggt_depth must be a whole number", "True"]),
        ({"use_state": 1}, ["use_state must be true or false", "got 1"]),
        ({"image_size": 32}, ["image_size must be 2 values, each a whole number", "got 32"]),
        ({"views": 5}, ["views must be any number of values, each text", "got 5"]),
        ({"freeze_vggt": "no"}, ["freeze_vggt must be true or false or null", "'no'"]),
        ({"device": "abacus"}, ["abacus", "cuda, mps, xpu or cpu", "--policy.device"]),
        (
            {"normalization_mapping": {"ACTON": "MEAN_STD"}},
            ["'ACTON'", "STATE, VISUAL", "--policy.normalization_mapping"],
        ),
        ({"normalization_mapping": {"ACTION": "MEAN"}}, ["'MEAN'", "MEAN_STD", "--policy.normalization_mapping"]),
        (
            {"output_features": {"action": PolicyFeature(FeatureType.ACTION, (-7,))}},
            ["output_features", "'action'", "(-7,)", "1 to 16384"],
        ),
    ],
)
def test_impossible_values_are_refused(overrides, needles):
    with pytest.raises(ConfigError) as error:
        tiny_config(**overrides)
    for needle in needles:
        assert needle in str(error.value)


def test_every_number_has_a_range():
    numbers = {field.name for field in dataclasses.fields(AtlasVLAConfig) if field.type in (int, float, Count, Number)}
    assert numbers == COUNTS.keys() | NUMBERS.keys()


@pytest.mark.parametrize(
    ("flag", "needle"),
    [
        ("vggt_depth=true", "vggt_depth must be a whole number, got true"),
        ("optimizer_weight_decay=true", "optimizer_weight_decay must be a number, got true"),
        ("image_size=[32, true]", "image_size.1 must be a whole number, got true"),
        ("optimizer_lr=nan", "optimizer_lr must lie in (0, 1), got nan"),
        ("optimizer_lr=-inf", "optimizer_lr must lie in (0, 1), got -inf"),
        ("vggt_depth=null", "vggt_depth must be a whole number, got None"),
        ("vggt_depth=2.5", "vggt_depth"),
        ("decoder_num_layers=many", "decoder_num_layers"),
    ],
)
def test_flags_and_files_are_read_strictly(flag, needle, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    with draccus.config_type("json"), pytest.raises(DraccusException) as error:
        draccus.parse(AtlasVLAConfig, args=[f"--{flag}"], exit_on_error=False)
    assert needle in str(error.value)
    name, _, value = flag.partition("=")
    content = json.loads((tmp_path / "config.json").read_text())
    content[name] = {"nan": math.nan, "-inf": -math.inf, "many": "many"}.get(value) or json.loads(value)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(DraccusException) as error:
        PreTrainedConfig.from_pretrained(tmp_path)
    assert needle in str(error.value)


def test_a_network_larger_than_the_memory_is_refused_before_it_is_built(monkeypatch):
    """Numbers that are each allowed can come to more than any computer has."""
    monkeypatch.setattr(AtlasVLA, "__init__", lambda *_, **__: pytest.fail("built"))
    config = tiny_config(decoder_hidden_size=16_384, decoder_num_layers=256, chunk_size=1000)
    with pytest.raises(ValueError, match=r"would take .* GB.*decoder.*--policy\.decoder_hidden_size"):
        AtlasVLAPolicy(config)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"head": "flow", "views": ("none",)},
        {"fusion": "early"},
        {"vision": "patch", "vision_patch_size": 8},
        {"vision": "da3", "image_size": (28, 28)},
        {"vggt_embed_dim": 256, "decoder_hidden_size": 256, "image_size": (128, 128), "num_action_queries": 4},
    ],
)
def test_the_size_is_known_without_building(overrides):
    config = tiny_config(**overrides)
    built = sum(parameter.numel() for parameter in AtlasVLAPolicy(config).parameters())
    assert 0.8 * built < sum(parameter_counts(config).values()) <= built


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (lambda f: {STATE: f[STATE]}, "at least one camera"),
        (lambda f: f | {IMAGE: PolicyFeature(FeatureType.VISUAL, (32, 32))}, "(3, H, W), got (32, 32)"),
        (lambda f: f | {IMAGE: PolicyFeature(FeatureType.VISUAL, (1, 32, 32))}, "(3, H, W), got (1, 32, 32)"),
        (lambda f: {k: v for k, v in f.items() if k != STATE}, "--env.obs_type=pixels_agent_pos"),
        (lambda f: f | {STATE: PolicyFeature(FeatureType.STATE, (8, 1))}, "shape (N,), got (8, 1)"),
    ],
)
def test_unreadable_features_are_refused(change, needle):
    config = tiny_config()
    config.input_features = change(config.input_features)
    with pytest.raises(ValueError, match=r"observation|camera") as error:
        AtlasVLAPolicy(config)
    assert needle in str(error.value)


def test_missing_action_is_refused():
    with pytest.raises(ValueError, match="needs 'action'"):
        AtlasVLAPolicy(tiny_config(output_features={}))


@pytest.mark.parametrize(("part", "source"), [("vggt", "facebook/VGGT-1B"), ("language", "Qwen/Qwen3-0.6B-Base")])
def test_pretrained_is_never_replaced_by_random_weights(part, source):
    with pytest.raises(ValueError, match=f"--policy.{part}_init=random") as error:
        AtlasVLAPolicy(tiny_config(vggt_patch_embed="conv", **{f"{part}_init": "pretrained"}))
    assert f"hf download {source}" in str(error.value)
    assert f"--policy.{part}_model" in str(error.value)


def test_random_weights_are_shouted_about(caplog):
    AtlasVLAPolicy(tiny_config())
    assert "RANDOM weights" in caplog.text


def test_defaults_construct_and_register():
    assert AtlasVLAConfig(device="cpu").type == "atlasvla"
    assert PreTrainedConfig.get_choice_class("atlasvla") is AtlasVLAConfig


def test_config_survives_a_round_trip(tmp_path):
    config = tiny_config(random_shift=3, n_action_steps=4)
    config.save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path) == config


def test_optimizer_presets_follow_the_fields():
    config = tiny_config(optimizer_lr=3e-4, optimizer_betas=(0.8, 0.9), scheduler_warmup_steps=7)
    optimizer = config.get_optimizer_preset()
    assert (optimizer.lr, optimizer.betas, optimizer.grad_clip_norm) == (
        3e-4,
        (0.8, 0.9),
        config.optimizer_grad_clip_norm,
    )
    assert config.get_scheduler_preset().num_warmup_steps == 7


def test_deltas_are_one_observation_and_one_chunk():
    config = tiny_config()
    assert config.observation_delta_indices is None
    assert config.reward_delta_indices is None
    assert config.action_delta_indices == list(range(10))


@pytest.mark.parametrize("text", ["[{0}, {1}]", "[{0},{1}]"])
def test_views_as_the_readme_writes_them(text):
    """LeRobot's command line is JSON: a list without quotes stays text, and draccus splits it into characters."""
    assert tiny_config(views=tuple(text.format(WRIST, IMAGE))).views == (WRIST, IMAGE)
    assert tiny_config(views=[WRIST]).views == (WRIST,)


@pytest.mark.parametrize("name", ["backbone_sources", "backbone_architectures"])
def test_what_a_policy_was_built_from_is_in_the_file_but_is_no_setting(name, tmp_path):
    with pytest.raises(TypeError, match=name):
        tiny_config(**{name: {}})
    config = tiny_config()
    setattr(config, name, {"language": {"model_type": "qwen3"}})
    config.save_pretrained(tmp_path)
    assert getattr(PreTrainedConfig.from_pretrained(tmp_path), name) == getattr(config, name)
    with pytest.raises(SystemExit):
        PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=[f"--{name}={{}}"])


@pytest.mark.parametrize("checkpoint", NAMES)
def test_the_settings_of_an_earlier_training_run_are_read(checkpoint):
    """As lerobot-train reads them to resume the run: draccus refuses a key that it does not know."""
    training = TrainPipelineConfig.from_pretrained(CHECKPOINTS / checkpoint)
    assert isinstance(training.policy, AtlasVLAConfig)
    assert training.policy.backbone_architectures["language"]["model_type"] == "qwen3"
