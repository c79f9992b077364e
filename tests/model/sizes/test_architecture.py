"""A file's architecture reaches transformers as sizes only: nothing in it chooses code, a download or a device."""

import pytest

from lerobot_atlasvla.model.language import LanguageEncoder
from lerobot_atlasvla.model.sizes.architecture import SIZES, architecture_sizes, da3_sizes
from lerobot_atlasvla.model.vision import Dinov2Tower
from tests.helpers.released import DINOV2_SIZES, QWEN_SIZES

QWEN = {"model_type": "qwen3", **QWEN_SIZES, "head_dim": 8}
DINOV2 = {"model_type": "dinov2", **DINOV2_SIZES}
# With the first, transformers downloads a kernel from the Hub and runs it.
HOSTILE = {
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "experts_implementation": "someone/kernel",
    "auto_map": {"AutoModel": "evil.Model"},
    "_name_or_path": "someone/else",
    "torch_dtype": "float16",
    "dtype": "float16",
    "quantization_config": {"quant_method": "awq"},
    "architectures": ["Evil"],
    "use_kernels": True,
    "chunk_size_feed_forward": 3,
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_only_sizes_reach_the_language_model(hostile):
    plain, built = (LanguageEncoder(sizes, cache_size=1) for sizes in (QWEN, QWEN | {hostile: HOSTILE[hostile]}))
    assert built.backbone.config.to_dict() == plain.backbone.config.to_dict()
    assert built.backbone.config._attn_implementation == plain.backbone.config._attn_implementation


@pytest.mark.parametrize("hostile", HOSTILE)
def test_only_sizes_reach_the_vision_tower(hostile):
    plain, built = (Dinov2Tower(sizes) for sizes in (DINOV2, DINOV2 | {hostile: HOSTILE[hostile]}))
    assert built.backbone.config.to_dict() == plain.backbone.config.to_dict()
    assert built.backbone.config._attn_implementation == plain.backbone.config._attn_implementation


def test_the_configurations_of_transformers_lose_nothing():
    """Whole files, as the Hub has them and as transformers 5 writes them, build the network that they describe."""
    from transformers import Qwen3Config

    whole = Qwen3Config(**QWEN_SIZES, head_dim=8, rope_theta=1000000).to_dict()
    assert Qwen3Config(**architecture_sizes(whole)).to_dict() == whole
    older = QWEN | {"rope_theta": 1000000, "rope_scaling": None, "hidden_act": "silu", "torch_dtype": "bfloat16"}
    assert LanguageEncoder(older, cache_size=1).backbone.config.rope_parameters == whole["rope_parameters"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "16"),
        ("hidden_size", 16.0),
        ("hidden_size", True),
        ("hidden_size", [16]),
        ("hidden_size", 10**9),
        ("hidden_size", 15),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 5),
        ("num_hidden_layers", 10**8),
        ("vocab_size", -1),
        ("head_dim", "8"),
        ("max_position_embeddings", float("nan")),
        ("rms_norm_eps", float("nan")),
        ("attention_bias", "false"),
        ("hidden_act", "relu"),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"type": "dynamic", "factor": 4.0}),
        ("rope_scaling", "yarn"),
        ("layer_types", ["sliding_attention"]),
    ],
)
def test_what_is_no_size_of_a_released_model_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        architecture_sizes(QWEN | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embed_dim", "384"),
        ("embed_dim", 386),
        ("embed_dim", 10**9),
        ("depth", None),
        ("depth", 0),
        ("num_heads", True),
    ],
)
def test_what_is_no_size_of_da3_is_refused_by_name(name, value):
    whole = {"embed_dim": 384, "depth": 12, "num_heads": 6}
    assert da3_sizes(whole | {"auto_map": {"AutoModel": "evil.Model"}}) == whole
    with pytest.raises(ValueError, match=name):
        da3_sizes(whole | {name: value})


@pytest.mark.parametrize("kind", [None, "llama", ["qwen3"], {"qwen3": 1}])
def test_another_model_type_is_refused(kind):
    with pytest.raises(ValueError, match="model_type must be one of qwen3"):
        architecture_sizes(QWEN | {"model_type": kind})


def test_every_size_is_one_that_transformers_knows():
    from transformers import AutoConfig

    for kind, sizes in SIZES.items():
        known = AutoConfig.for_model(kind).to_dict()
        assert set(sizes) - {"rope_theta"} <= set(known), kind
