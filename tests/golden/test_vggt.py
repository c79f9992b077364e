"""Our aggregator and heads against stored outputs of VGGT's own code, and against the released list of tensors.

Weights and images are drawn from seeds, so only figures are stored. The cases in ``data/`` travel with the repository;
more are checked when a ``shared/vggt_golden`` folder lies beside it.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.benchmark.full_size.weights import vggt_tensors
from lerobot_atlasvla.model import layers
from lerobot_atlasvla.model.geometry.vggt import Aggregator
from lerobot_atlasvla.model.geometry.vggt_heads import CameraHead, DepthHead
from lerobot_atlasvla.weights.vggt_state_dict import to_vggt
from tests.golden.adapter import run
from tests.golden.recipe import MAX_DIFFERENCE, MAX_RELATIVE, draw_images, draw_weights

HERE = Path(__file__).parent
FOLDERS = [HERE / "data", HERE.parents[2] / "shared" / "vggt_golden"]
CASES = sorted(
    {file.stem: file for folder in FOLDERS for file in folder.glob("*_s[0-9].json")}.values(),
    key=lambda file: file.stem,
)


@pytest.mark.parametrize("case", CASES, ids=lambda file: file.stem)
def test_aggregator_and_heads_match_vggt(case: Path):
    meta = json.loads(case.read_text())
    weights = draw_weights(meta)
    with torch.no_grad():
        result = run(meta, weights, draw_images(meta["images_shape_BSCHW"], meta["seed"]))

    golden = {}
    for kind in ("tokens", "heads"):
        file = case.with_suffix(f".{kind}.safetensors")
        golden |= load_file(file) if file.exists() else {}
    assert golden
    start = meta["patch_start_idx"]
    layout = meta["token_layout"]
    every = int(layout.split("patches[::")[1].split("]")[0]) if "patches[::" in layout else 1
    assert result["patch_start_idx"] == start
    assert len(result["layers"]) == meta["n_layers_saved"]
    ours = {
        f"layer_{index:02d}": torch.cat((tokens[:, :, :start], tokens[:, :, start::every]), dim=2)
        for index, tokens in enumerate(result["layers"])
    } | {"patch_tokens": result["patch_tokens"][:, ::every]}
    if meta["heads"]:
        ours |= {f"pose_enc_iter{index}": pose for index, pose in enumerate(result["pose_enc"])}
        ours |= {"depth": result["depth"], "depth_conf": result["depth_conf"]}
    assert golden.keys() <= ours.keys()
    for name, reference in golden.items():
        difference = (ours[name] - reference).double()
        assert difference.abs().max() <= MAX_DIFFERENCE[meta["profile"]], name
        assert difference.norm() / reference.double().norm() <= MAX_RELATIVE, name


def test_a_small_mistake_would_be_seen(monkeypatch):
    """The stored case must be able to fail: the tanh form of GELU, a classic slip, has to break it."""
    case = HERE / "data" / "strong_s1.json"
    meta = json.loads(case.read_text())
    weights = draw_weights(meta)
    monkeypatch.setattr(layers.F, "gelu", partial(torch.nn.functional.gelu, approximate="tanh"))
    with torch.no_grad():
        result = run(meta, weights, draw_images(meta["images_shape_BSCHW"], meta["seed"]))
    golden = load_file(case.with_suffix(".tokens.safetensors"))["layer_02"]
    difference = (result["layers"][2] - golden).double()
    assert difference.norm() / golden.double().norm() > 10 * MAX_RELATIVE


def released_parts() -> dict[str, dict[str, torch.Tensor]]:
    """Our modules at the size of VGGT-1B, without memory, under the checkpoint's names."""
    with torch.device("meta"):
        modules = {"aggregator": Aggregator(), "camera_head": CameraHead(), "depth_head": DepthHead()}
    states = {name: module.state_dict() for name, module in modules.items()}
    return states | {"aggregator": to_vggt(states["aggregator"])}


def test_sizes_are_those_of_vggt_1b():
    """Tensors and values per part of the released checkpoint."""
    counts = {name: (len(state), sum(t.numel() for t in state.values())) for name, state in released_parts().items()}
    assert counts == {
        "aggregator": (1210, 909_112_320),
        "camera_head": (69, 216_174_610),
        "depth_head": (62, 32_654_562),
    }


def test_names_and_shapes_are_those_of_vggt_1b():
    released = vggt_tensors()
    for part, state in released_parts().items():
        ours = {f"{part}.{name}": tuple(tensor.shape) for name, tensor in state.items()}
        assert ours == {name: shape for name, shape in released.items() if name.startswith(f"{part}.")}


def test_our_list_is_that_of_the_released_file():
    file = FOLDERS[1] / "vggt_1b_state_dict_keys.json"
    if not file.exists():
        pytest.skip("needs shared/vggt_golden with the names and shapes read from the released file")
    released = json.loads(file.read_text())
    assert {dtype for _, dtype in released.values()} == {"float32"}
    assert vggt_tensors() == {name: tuple(shape) for name, (shape, _) in released.items()}
