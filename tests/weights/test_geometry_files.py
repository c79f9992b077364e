"""Which geometry model a file holds: its own names are read, and another one's are refused in one sentence."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.checks.config import ConfigError
from lerobot_atlasvla.weights.download import WeightsError
from tests.conftest import tiny_config
from tests.helpers.released import DA3_PREFIX, WEIGHTS, change_file, released_config, released_policy, write_da3

SUPPORTED = "supported are depth-anything/DA3-SMALL and depth-anything/DA3-BASE, both Apache-2.0 (--policy.da3_model)."


def with_da3(root: Path, model: Path | str, **overrides) -> AtlasVLAPolicy:
    return released_policy(root, vision="da3", da3_model=str(model), **overrides)


def refused(root: Path, model: Path | str, **overrides) -> str:
    with pytest.raises(WeightsError) as error:
        with_da3(root, model, **overrides)
    return str(error.value)


def write_shapes(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir()
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / WEIGHTS)
    return folder


def outline(width: int, depth: int, *, first_norm: int | None, prefix: str = DA3_PREFIX) -> dict[str, tuple[int, ...]]:
    """Some small tensors of a DA3, by which its size and kind can be told."""
    shapes = {"cls_token": (1, 1, width), "norm.weight": (width,)} | {
        f"blocks.{i}.ls1.gamma": (1,) for i in range(depth)
    }
    if first_norm is not None:
        shapes |= {"camera_token": (1, 2, width)}
        shapes |= {f"blocks.{i}.attn.q_norm.weight": (64,) for i in range(first_norm, depth)}
    return {prefix + name: shape for name, shape in shapes.items()} | {"model.head.norm.bias": (4,)}


@pytest.mark.parametrize("prefix", [DA3_PREFIX, "backbone.pretrained.", ""])
def test_the_policy_has_the_values_of_the_file(root, tmp_path, prefix):
    folder = write_da3(tmp_path / "eyes", prefix=prefix, width=48, depth=7, heads=3)
    policy = with_da3(root, folder)
    file = load_file(folder / WEIGHTS)
    encoder = policy.model.aggregator
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, file[prefix + name]), name
    # Sizes are those of the file, not of the settings, and a checkpoint remembers them.
    assert policy.config.backbone_architectures["da3"] == {"embed_dim": 48, "depth": 7, "num_heads": 3}
    assert encoder.blocks[4].attn.num_heads == 3


@pytest.mark.parametrize(("width", "depth", "first_norm", "name"), [(1024, 24, 8, "LARGE"), (1536, 40, 13, "GIANT")])
@pytest.mark.parametrize("prefix", [DA3_PREFIX, "backbone.pretrained."])
def test_large_and_giant_are_refused_with_their_license(root, tmp_path, width, depth, first_norm, name, prefix):
    folder = write_shapes(tmp_path / "eyes", outline(width, depth, first_norm=first_norm, prefix=prefix))
    assert refused(root, folder) == (
        f"{folder} is DA3-{name} by its width of {width}, which is for non-commercial use (CC BY-NC 4.0); {SUPPORTED}"
    )


@pytest.mark.parametrize("width", [384, 1024])
def test_a_monocular_or_metric_model_is_refused(root, tmp_path, width):
    folder = write_shapes(tmp_path / "eyes", outline(width, 12, first_norm=None))
    assert (
        "is a monocular or metric Depth Anything 3 or a plain DINOv2 (it has no camera_token), which sees one view"
        in refused(root, folder)
    )


def test_a_nested_model_is_refused(root, tmp_path):
    shapes = outline(1536, 40, first_norm=13, prefix="model.da3.backbone.pretrained.")
    folder = write_shapes(tmp_path / "eyes", shapes | {"model.da3_metric.backbone.pretrained.cls_token": (1, 1, 1024)})
    assert "is a nested Depth Anything 3, which has a DA3-GIANT inside" in refused(root, folder)


def test_vggt_and_da3_are_not_mixed_up(root, tmp_path):
    assert refused(root, root / "vggt") == (
        f"{root / 'vggt'} holds a VGGT and no Depth Anything 3 (--policy.da3_model); for VGGT, use "
        f"--policy.vision=vggt --policy.vggt_model={root / 'vggt'}."
    )
    bare = {name.removeprefix("aggregator."): tensor for name, tensor in load_file(root / "vggt" / WEIGHTS).items()}
    (tmp_path / "bare").mkdir()
    save_file(bare, tmp_path / "bare" / WEIGHTS)
    assert "holds a VGGT and no Depth Anything 3" in refused(root, tmp_path / "bare")
    for prefix in (DA3_PREFIX, "backbone.pretrained.", ""):
        folder = write_da3(tmp_path / f"eyes{prefix}", prefix=prefix)
        with pytest.raises(WeightsError) as error:
            released_policy(root, vggt_model=str(folder))
        assert str(error.value) == (
            f"{folder} holds a Depth Anything 3 and no VGGT (--policy.vggt_model); for DA3, use --policy.vision=da3 "
            f"--policy.da3_model={folder}."
        )


def test_another_models_file_is_refused(root):
    message = refused(root, root / "dinov2")
    assert (
        f"{root / 'dinov2'} holds no Depth Anything 3: nothing in it is called model.backbone.pretrained.*" in message
    )
    assert message.endswith(SUPPORTED)


@pytest.mark.parametrize(
    "name", ["camera_token", "cls_token", "pos_embed", "blocks.4.attn.q_norm.weight", "blocks.2.ls1.gamma", "norm.bias"]
)
@pytest.mark.parametrize("problem", ["missing", "shape"])
def test_a_gap_names_tensor_file_and_flag(root, tmp_path, name, problem):
    folder = write_da3(tmp_path / "eyes")

    def damage(tensors):
        del tensors[DA3_PREFIX + name]
        if problem == "shape":
            tensors[DA3_PREFIX + name] = torch.zeros(3, 5)

    change_file(folder / WEIGHTS, damage)
    message = refused(root, folder)
    for needle in (problem, name, str(folder / WEIGHTS), "--policy.da3_model"):
        assert needle in message


def test_a_released_file_that_was_cut_short_is_not_taken_for_a_smaller_model(root, tmp_path):
    folder = write_shapes(tmp_path / "eyes", outline(384, 9, first_norm=4))
    message = refused(root, folder)
    assert re.search(r"\d+ of \d+ tensors missing", message)


@pytest.mark.parametrize("shape", [(), (64,), (3, 2)])
def test_a_damaged_norm_does_not_hide_what_is_wrong(root, tmp_path, shape):
    folder = write_da3(tmp_path / "eyes")
    norms = [f"{DA3_PREFIX}blocks.{block}.attn.q_norm.weight" for block in (4, 5)]
    change_file(folder / WEIGHTS, lambda tensors: tensors.update(dict.fromkeys(norms[:1], torch.zeros(shape))))
    message = refused(root, folder)
    assert "tensors of another shape: " in message
    assert "attn.q_norm" in message
    assert message.endswith("(--policy.da3_model)")


def test_a_layer_that_the_file_does_not_have_is_refused(root):
    message = refused(root, root / "da3", da3_output_layers=(5, 7), da3_depth=12)
    assert message == (
        f"{root / 'da3'} has 6 blocks, so da3_output_layers can't be (5, 7) (--policy.da3_output_layers)."
    )


@pytest.mark.parametrize(
    ("overrides", "needles"),
    [
        ({"da3_model": "depth-anything/DA3-LARGE"}, ["'depth-anything/DA3-LARGE' is for non-commercial", SUPPORTED]),
        ({"da3_model": "depth-anything/DA3-GIANT-1.1"}, ["is for non-commercial use (CC BY-NC 4.0)", SUPPORTED]),
        ({"da3_model": "depth-anything/DA3MONO-LARGE"}, ["sees one view at a time", SUPPORTED]),
        ({"da3_model": "depth-anything/DA3METRIC-LARGE"}, ["sees one view at a time", SUPPORTED]),
        ({"da3_model": "depth-anything/DA3NESTED-GIANT-LARGE"}, ["has a DA3-GIANT inside", SUPPORTED]),
        ({"da3_model": "facebook/VGGT-1B"}, ["da3_model is a VGGT", "--policy.vggt_model=facebook/VGGT-1B"]),
        (
            {
                "vision": "vggt",
                "vggt_patch_size": 14,
                "vggt_init": "pretrained",
                "vggt_model": "depth-anything/DA3-BASE",
            },
            ["vggt_model is a Depth Anything 3", "--policy.da3_model=depth-anything/DA3-BASE"],
        ),
        ({"fusion": "early"}, ["fusion must be 'late', got 'early'", "--policy.fusion=late"]),
        ({"vggt_blocks": "frozen"}, ["does without; got 'frozen'", "--policy.vggt_blocks=normal"]),
        ({"da3_depth": 5, "da3_output_layers": (4,)}, ["da3_depth must be at least 6", "--policy.da3_depth"]),
        ({"da3_output_layers": (5, 6)}, ["ascending layers in 0 .. 5, got (5, 6)", "--policy.da3_output_layers"]),
        ({"da3_embed_dim": 30}, ["da3_embed_dim must be a multiple of 4 x da3_num_heads = 8, got 30"]),
        ({"da3_model": ""}, ["da3_model is empty", "--policy.da3_init=random"]),
        ({"image_size": (32, 28)}, ["multiples of the patch size 14, got (32, 28)", "(--policy.image_size)"]),
        ({"feature_cache": "x", "freeze_da3": False}, ["freeze_da3=true", "got False, 'late' and 'da3'"]),
    ],
)
def test_what_the_settings_already_show_is_refused_before_any_file_is_read(overrides, needles):
    values = {"vision": "da3", "da3_init": "pretrained", "image_size": (28, 28), "vggt_patch_embed": "conv"} | overrides
    with pytest.raises(ConfigError) as error:
        tiny_config(**values)
    for needle in needles:
        assert needle in str(error.value), str(error.value)


def test_the_released_models_are_taken_and_random_ones_have_no_name(root):
    for name in ("depth-anything/DA3-SMALL", "depth-anything/DA3-BASE", "my-lab/DA3-LARGE-distilled"):
        assert released_config(root, vision="da3", da3_model=name).da3_model == name
    policy = AtlasVLAPolicy(tiny_config(vision="da3", image_size=(28, 28)))
    assert policy.config.backbone_architectures["da3"] == {"embed_dim": 32, "depth": 6, "num_heads": 2}
    assert all(parameter.requires_grad for parameter in policy.model.aggregator.parameters())
