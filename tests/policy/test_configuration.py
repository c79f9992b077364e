"""Every value that can't work is refused, with its name, the value, what is allowed and the flag."""

import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.configuration_atlasvla import ConfigError
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
    ],
)
def test_impossible_values_are_refused(overrides, needles):
    with pytest.raises(ConfigError) as error:
        tiny_config(**overrides)
    for needle in needles:
        assert needle in str(error.value)


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
