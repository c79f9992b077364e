"""Our DA3 encoder against stored outputs of the authors' own code, and against the released sizes.

Weights and images are drawn from seeds, so only figures are stored. The cases in ``data/da3`` travel with the
repository; more are checked when a ``shared/da3_golden`` folder lies beside it.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lerobot_atlasvla.model.geometry import da3
from lerobot_atlasvla.model.geometry.da3 import DA3CameraDecoder, DA3Encoder
from tests.golden.da3_adapter import SIZES, run
from tests.golden.recipe import MAX_DIFFERENCE, MAX_RELATIVE, draw_images, draw_weights

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "da3_golden"
# Those that lie beside the repository are whole, so they come first and the stored ones take their place.
CASES = sorted(
    {file.name: file for folder in (SHARED, HERE / "data/da3") for file in folder.glob("*.tokens.safetensors")}.values()
)
PLAIN = HERE / "data/da3/small_s3_plain.tokens.safetensors"


def compare(case: Path, prefix: str = "model.") -> dict[str, tuple[float, float]]:
    """Largest and relative difference by stored tensor; ``prefix`` takes the place of the released names' own."""
    meta = json.loads(case.with_name(case.name.replace(".tokens.safetensors", ".json")).read_text())
    weights = {prefix + key.removeprefix("model."): tensor for key, tensor in draw_weights(meta).items()}
    with torch.no_grad():
        result = run(meta, weights, draw_images(meta["images_shape_BSCHW"], meta["seed"]))
    ours = {f"layer_{index:02d}": t[:, :, :: meta["every_nth_patch"]] for index, t in result["layers"].items()}
    ours |= {f"camera_{index:02d}": t for index, t in result["camera"].items()} | {"pose_enc": result["pose_enc"]}
    golden = load_file(case)
    assert golden.keys() == ours.keys()
    found = {}
    for name, reference in golden.items():
        assert ours[name].shape == reference.shape, name
        difference = (ours[name] - reference).double()
        relative = difference.norm() / reference.double().norm()
        found[name] = (difference.abs().max().item() / MAX_DIFFERENCE[meta["profile"]], relative.item() / MAX_RELATIVE)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda file: file.name.split(".")[0])
def test_encoder_and_camera_decoder_match_da3(case):
    assert {name: pair for name, pair in compare(case).items() if max(pair) > 1} == {}


def test_names_without_the_hub_files_prefix_are_read_too():
    assert max(max(pair) for pair in compare(PLAIN, prefix="").values()) <= 1


@pytest.mark.parametrize(("name", "value"), [("NORM_EPS", 1e-5), ("TABLE_OFFSET", 0.0), ("ALTERNATING_FROM", 4)])
def test_small_mistakes_would_be_seen(name, value, monkeypatch):
    """The stored case must be able to fail: at a wrong epsilon, a wrong grid, a camera token that never comes."""
    monkeypatch.setattr(da3, name, value)
    if name == "ALTERNATING_FROM":
        monkeypatch.setattr(
            da3, "first_view_then_others", lambda token, batch, views: token[0, :1].expand(views, -1, -1)
        )
    assert max(max(pair) for pair in compare(PLAIN).values()) > 3


def released(size: str) -> tuple[DA3Encoder, DA3CameraDecoder]:
    embed_dim, depth, num_heads = SIZES[size]
    with torch.device("meta"):
        return DA3Encoder(embed_dim=embed_dim, depth=depth, num_heads=num_heads), DA3CameraDecoder(2 * embed_dim)


@pytest.mark.parametrize(("size", "parameters"), [("vits", 22_059_008), ("vitb", 86_583_296)])
def test_sizes_are_those_of_the_released_models(size, parameters):
    encoder, decoder = released(size)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert len(encoder.state_dict()) + len(decoder.state_dict()) == 217


def test_names_and_shapes_are_those_of_the_released_files():
    file = SHARED / "released_keys.json"
    if not file.exists():
        pytest.skip("needs shared/da3_golden with the names and shapes of the released files")
    for size, content in zip(("vits", "vitb"), json.loads(file.read_text()).values(), strict=True):
        modules = zip(("model.backbone.pretrained.", "model.cam_dec."), released(size), strict=True)
        ours = {f"{start}{name}": list(t.shape) for start, module in modules for name, t in module.state_dict().items()}
        assert ours == content["shapes"]
