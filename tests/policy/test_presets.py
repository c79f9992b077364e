"""The recipes in configs/policy: they parse as LeRobot parses them, and build what they say."""

from pathlib import Path

import draccus
import pytest
import yaml
from lerobot.configs.train import TrainPipelineConfig

from eval.benchmark.full_size.weights import dinov2_config, qwen3_config
from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.atlasvla import AtlasVLA
from tests.conftest import IMAGE, WRIST, tiny_config

FOLDER = Path(__file__).parents[2] / "configs" / "policy"
FULL = ["atlasvla_libero", "atlasvla_base", "atlasvla_dinov2", "atlasvla_da3_small", "atlasvla_da3_base"]
DA3 = {"embed_dim": 384, "depth": 12, "num_heads": 6}, {"embed_dim": 768, "depth": 12, "num_heads": 12}
FROM_SCRATCH = ["atlasvla_tiny", "atlasvla_small"]
MINI = "atlasvla_mini"
MILLION = 1e6


def preset(name: str) -> TrainPipelineConfig:
    return draccus.parse(
        TrainPipelineConfig, FOLDER / f"{name}.yaml", args=["--dataset.repo_id=x/y", "--policy.device=cpu"]
    )


def full_size(name: str):
    """The preset's network, backbones without memory."""
    config = preset(name).policy
    features = tiny_config()
    config.input_features, config.output_features = features.input_features, features.output_features
    config.validate_features()
    config.backbone_architectures = {
        "language": qwen3_config().to_dict(),
        "vision_tower": dinov2_config().to_dict(),
        "da3": DA3[config.da3_model.endswith("BASE")],
    }
    model = AtlasVLA(config, without_weights=["vggt", "da3", "language", "vision_tower"])
    for part, module in model.backbones().items():
        module.requires_grad_(not config.is_frozen(part))
    return model


def test_there_are_these_presets_and_a_page_about_them():
    names = {file.stem for file in FOLDER.glob("*.yaml")}
    assert names == {*FULL, *FROM_SCRATCH, MINI}
    page = (FOLDER / "README.md").read_text()
    assert all(f"`{name}`" in page for name in names)


@pytest.mark.parametrize("name", [*FULL, *FROM_SCRATCH, MINI])
def test_every_value_of_a_preset_is_a_field_and_reaches_the_configuration(name):
    written = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["policy"]
    config = preset(name).policy
    assert isinstance(config, AtlasVLAConfig)
    for key in written.keys() - {"type", "normalization_mapping"}:
        value = getattr(config, key)
        assert (list(value) if isinstance(value, tuple) else value) == written[key], key
    assert {key: mode.name for key, mode in config.normalization_mapping.items()} == written["normalization_mapping"]


@pytest.mark.parametrize(
    ("name", "millions", "patches"),
    [
        ("atlasvla_libero", 57.8, 256),
        ("atlasvla_base", 45.1, 196),
        ("atlasvla_dinov2", 44.4, 256),
        ("atlasvla_da3_small", 17.2, 256),
        ("atlasvla_da3_base", 57.0, 256),
    ],
)
def test_full_presets_have_the_size_they_claim(name, millions, patches):
    model = full_size(name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained / MILLION == pytest.approx(millions, abs=0.06)
    assert trained <= 60 * MILLION
    assert model.grid[0] * model.grid[1] == patches
    assert f"{millions} M" in (FOLDER / "README.md").read_text()
    assert f"{millions} M trained parameters" in (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize(("name", "batch", "rate"), [("atlasvla_base", 16, 3e-5), ("atlasvla_dinov2", 12, 2e-5)])
def test_base_and_dinov2_are_the_original_recipe(name, batch, rate):
    recipe = preset(name)
    config = recipe.policy
    assert (recipe.batch_size, config.optimizer_lr) == (batch, rate)
    assert (config.fusion, config.views, config.image_size) == ("early", (IMAGE,), (224, 224))
    assert (config.num_action_queries, config.decoder_hidden_size) == (16, 768)
    assert (config.chunk_size, config.tokenizer_max_length) == (10, 77)
    assert config.freeze_vggt
    assert config.freeze_language
    model = full_size(name)
    assert WRIST not in config.view_keys
    assert model.decoder.queries.queries.shape == (1, 16, 768)
    assert model.fusion.projector[1].in_features == 2048
    assert model.fusion.projector[-1].out_features == 768
    assert not hasattr(model.aggregator, "camera_token")


@pytest.mark.parametrize("name", ["atlasvla_da3_small", "atlasvla_da3_base"])
def test_a_da3_preset_has_the_same_sizes_from_scratch(name):
    config = preset(name).policy
    sizes = {key: getattr(config, f"da3_{key}") for key in ("embed_dim", "depth", "num_heads")}
    assert sizes == DA3[config.da3_model.endswith("BASE")]
    assert (config.vision, config.fusion) == ("da3", "late")
    assert config.is_frozen("da3")
    assert config.is_frozen("language")
