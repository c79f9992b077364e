"""Limit which entries of a backbone's ``config.json`` reach transformers: sizes, and nothing that chooses code.

transformers' configurations take any key: ``attn_implementation`` can name a kernel to download and run, others name
classes, files and devices. So a file's dictionary is never passed on; what is listed here is.
"""

import math
from collections.abc import Mapping
from typing import Any

# name -> (width, layers, heads); all have patch size 14, four registers and a 37 x 37 position table.
DINOV2_SIZES = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
    "dinov2_vitg2_reg": (1536, 40, 24),
}
PATCH_EMBEDDERS = ("conv_stem", "conv", *DINOV2_SIZES)

_SHARED = {
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "initializer_range": float,
}
_QWEN = _SHARED | {
    "vocab_size": int,
    "intermediate_size": int,
    "num_key_value_heads": int,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
    "rope_theta": float,
    "attention_dropout": float,
    "use_sliding_window": bool,
    "sliding_window": int,
    "max_window_layers": int,
    "tie_word_embeddings": bool,
}
_DINOV2 = _SHARED | {
    "mlp_ratio": int,
    "hidden_dropout_prob": float,
    "attention_probs_dropout_prob": float,
    "layer_norm_eps": float,
    "image_size": int,
    "patch_size": int,
    "num_channels": int,
    "qkv_bias": bool,
    "layerscale_value": float,
    "drop_path_rate": float,
    "use_swiglu_ffn": bool,
}
SIZES: dict[str, dict[str, type]] = {
    "qwen3": _QWEN | {"head_dim": int, "attention_bias": bool},
    "qwen2": _QWEN,
    "dinov2": _DINOV2 | {"use_mask_token": bool},
    "dinov2_with_registers": _DINOV2 | {"num_register_tokens": int},
}
"""The entries that are used, with their types, by ``model_type``."""

# Lowest and highest of the whole numbers: what is beyond the highest is far from any released model.
_RANGES = dict.fromkeys(
    (
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
        "image_size",
        "embed_dim",
    ),
    (1, 1_000_000),
) | {
    "num_hidden_layers": (1, 256),
    "depth": (1, 256),
    "num_attention_heads": (1, 1024),
    "num_key_value_heads": (1, 1024),
    "num_heads": (1, 1024),
    "patch_size": (1, 256),
    "num_channels": (1, 4),
    "num_register_tokens": (0, 256),
    "mlp_ratio": (1, 64),
}
_DA3 = ("embed_dim", "depth", "num_heads")

# Entries that are no numbers but change what the network computes: no other value has ever been released.
_ACTIVATION = {"qwen3": "silu", "qwen2": "silu", "dinov2": "gelu", "dinov2_with_registers": "gelu"}


def architecture_sizes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known sizes of an architecture and its ``model_type``; whatever else it has is left out.

    Args:
        architecture: A ``config.json`` of transformers, of one of the model types in :data:`SIZES`. An entry without
            a value (null) counts as absent.

    Raises:
        ValueError: For another model type, a size that is not a number of its kind or out of range, heads that do not
            divide the width, or an activation, rotary embedding or attention pattern that is not built.
    """
    kind = architecture.get("model_type")
    if not isinstance(kind, str) or kind not in SIZES:
        raise ValueError(f"model_type must be one of {', '.join(SIZES)}, got {kind!r}")
    found: dict[str, Any] = {"model_type": kind}
    given = {name: value for name, value in architecture.items() if value is not None}
    # transformers 5 keeps the base of the rotary embedding in a dictionary, earlier ones beside it.
    for name in ("rope_parameters", "rope_scaling"):
        rope = given.get(name, {})
        rotary = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else rope
        if rotary != "default":
            raise ValueError(f"{name} must be of the type 'default', got {rope!r}")
        if "rope_theta" in rope and "rope_theta" not in given:
            given["rope_theta"] = rope["rope_theta"]
    for name, number in SIZES[kind].items():
        if name in given:
            found[name] = _number(name, given[name], number)
    _check_heads(found)
    if given.get("hidden_act", _ACTIVATION[kind]) != _ACTIVATION[kind]:
        raise ValueError(f"hidden_act must be {_ACTIVATION[kind]!r}, got {given['hidden_act']!r}")
    pattern = given.get("layer_types", [])
    if not found.get("use_sliding_window") and any(layer != "full_attention" for layer in pattern):
        raise ValueError(f"layer_types must all be 'full_attention', got {pattern!r}")
    return found


def da3_sizes(architecture: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a Depth Anything 3; whatever else the dictionary has is left out.

    Raises:
        ValueError: For a size that is missing, no whole number or out of range, or heads that do not divide the width.
    """
    found = {name: _number(name, architecture.get(name), int) for name in _DA3}
    if found["embed_dim"] % (4 * found["num_heads"]):
        raise ValueError(
            f"embed_dim must be a multiple of 4 x num_heads = {4 * found['num_heads']}, got {found['embed_dim']}"
        )
    return found


def _check_heads(sizes: Mapping[str, Any]) -> None:
    heads, width = sizes.get("num_attention_heads", 1), sizes.get("hidden_size")
    key_value_heads = sizes.get("num_key_value_heads", 1)
    if (width or 0) % heads or heads % key_value_heads:
        raise ValueError(
            f"num_attention_heads must divide hidden_size {width} and be a multiple of num_key_value_heads "
            f"{key_value_heads}, got {heads}"
        )


def _number(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        # A number as the file has it: what is saved and loaded stays the same.
        return value
    least, most = _RANGES.get(name, (-math.inf, math.inf))
    return check_number(name, value, kind, least, most)


def check_number(name: str, value: Any, kind: type, least: float, most: float) -> Any:
    """Return a number of a file.

    Raises:
        ValueError: If it is of another kind, or does not lie in ``least`` .. ``most``.
    """
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise ValueError(f"{name} must be {words}, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in {least} .. {most}, got {value}")
    return value
