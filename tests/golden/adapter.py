"""Runs our aggregator and heads on a golden case: ``check_golden.py GOLDEN_DIR tests.golden.adapter:run``."""

from typing import Any

from torch import Tensor

from lerobot_atlasvla.model.geometry.vggt import Aggregator
from lerobot_atlasvla.model.geometry.vggt_heads import CameraHead, DepthHead
from lerobot_atlasvla.weights.vggt_state_dict import AGGREGATOR_PREFIX, from_vggt


def run(meta: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Build the case's aggregator and heads, load their weights strictly, return everything they give."""
    aggregator = Aggregator(**own_arguments(meta["aggregator_kwargs"])).eval()
    aggregator.load_state_dict(from_vggt(below(weights, AGGREGATOR_PREFIX)))
    output = aggregator(images)
    result = {
        "layers": output.layers,
        "patch_start_idx": output.patch_start_idx,
        "patch_tokens": aggregator.embed(images).flatten(0, 1),
    }
    if meta.get("heads"):
        camera = CameraHead(meta["heads"]["camera_head"]["dim_in"]).eval()
        camera.load_state_dict(below(weights, "camera_head."))
        sizes = meta["heads"]["depth_head"]
        depth = DepthHead(
            sizes["dim_in"],
            patch_size=meta["aggregator_kwargs"].get("patch_size", 14),
            layers=sizes["intermediate_layer_idx"],
            features=sizes["features"],
            out_channels=sizes["out_channels"],
        ).eval()
        depth.load_state_dict(below(weights, "depth_head."))
        layers = [output.layers[index] for index in depth.layers]
        result["pose_enc"] = camera(output.layers[-1])
        result["depth"], result["depth_conf"] = depth(layers, tuple(images.shape[-2:]), output.patch_start_idx)
    return result


def own_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Upstream's arguments of the aggregator as ours: what is fixed in ours must have VGGT's value."""
    fixed = {
        "aa_order": ["frame", "global"],
        "aa_block_size": 1,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "proj_bias": True,
        "ffn_bias": True,
        "qk_norm": True,
        "rope_freq": 100,
    }
    for name, value in fixed.items():
        if kwargs.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, as in VGGT, got {kwargs[name]}.")
    renamed = {"layer_scale_init" if name == "init_values" else name: value for name, value in kwargs.items()}
    return {name: value for name, value in renamed.items() if name not in fixed}


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
