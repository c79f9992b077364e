"""Runs our DA3 encoder on a golden case: ``check_da3_golden.py GOLDEN_DIR tests.golden.da3_adapter:run``."""

from typing import Any

from torch import Tensor

from lerobot_atlasvla.model.geometry.da3 import ALTERNATING_FROM, DA3CameraDecoder, DA3Encoder
from tests.golden.adapter import below

SIZES = {"vits": (384, 12, 6), "vitb": (768, 12, 12)}
PREFIXES = ("model.", "")


def run(meta: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Build the case's encoder and camera decoder, load their weights strictly, return what they give by layer."""
    asked = meta["encoder"]
    fixed = dict.fromkeys(("alt_start", "qknorm_start", "rope_start"), ALTERNATING_FROM) | {"cat_token": True}
    for name, value in fixed.items():
        if asked.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, as in DA3-SMALL and DA3-BASE, got {asked[name]}.")
    embed_dim, depth, num_heads = SIZES[asked["name"]]
    encoder = DA3Encoder(embed_dim=embed_dim, depth=depth, num_heads=num_heads).eval()
    encoder.load_state_dict(below_either(weights, "backbone.pretrained."))
    layers = asked["out_layers"]
    outputs = dict(zip(layers, encoder(images, layers).layers, strict=True))
    result: dict[str, Any] = {
        "layers": {index: tokens[:, :, 1:] for index, tokens in outputs.items()},
        "camera": {index: tokens[:, :, 0] for index, tokens in outputs.items()},
    }
    if decoder_weights := below_either(weights, "cam_dec."):
        decoder = DA3CameraDecoder(2 * embed_dim).eval()
        decoder.load_state_dict(decoder_weights)
        result["pose_enc"] = decoder(result["camera"][max(layers)])
    return result


def below_either(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a part, whether or not the names begin with the Hub file's ``model.``."""
    return next((found for prefix in PREFIXES if (found := below(weights, prefix + part))), {})
