"""Depth and camera heads: read from the policy's own VGGT when asked for, and run on its aggregator."""

import pytest
from safetensors.torch import load_file

from lerobot_atlasvla.inspection.depth import GeometryReader
from tests.helpers import released

SIZES = {"depth_layers": (0, 1, 2, 3), "depth_features": 8, "depth_channels": (8, 16, 32, 32)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return released.write_with_heads(tmp_path_factory.mktemp("released"))


@pytest.fixture
def policy(root):
    return released.released_policy(root, vggt_depth=4, vggt_output_layers=(1, 3))


def test_depth_and_poses_of_every_view(policy):
    view = GeometryReader(policy, **SIZES)(released.preprocessed(policy.config))
    assert view.depth_BVHW.shape == view.confidence_BVHW.shape == (3, 2, 32, 32)
    assert view.pose_encoding_BV9.shape == (3, 2, 9)
    assert view.depth_BVHW.min() > 0
    assert view.confidence_BVHW.min() >= 1
    assert view.depth_BVHW.std() > 0


def test_the_policy_neither_holds_nor_saves_the_heads(policy, tmp_path):
    names = {name for name, _ in policy.named_parameters()}
    GeometryReader(policy, **SIZES)
    assert {name for name, _ in policy.named_parameters()} == names
    policy.save_pretrained(tmp_path)
    assert not [
        name for name in load_file(tmp_path / "model.safetensors") if "head." in name and "model.head" not in name
    ]


def test_heads_of_other_sizes_are_refused_by_name(policy):
    with pytest.raises(ValueError, match=r"depth_head|projects|norm"):
        GeometryReader(policy, **(SIZES | {"depth_features": 16}))


@pytest.mark.parametrize(
    ("overrides", "needle"),
    [
        ({"fusion": "early"}, "fusion=early"),
        ({"vision": "patch"}, "vision=patch"),
        ({"vision": "da3"}, "vision=da3"),
        ({"vggt_depth": 2}, "vggt_depth is 2"),
    ],
)
def test_a_policy_without_such_eyes_is_refused(root, overrides, needle):
    policy = released.released_policy(root, **({"vggt_depth": 4, "vggt_output_layers": (1,)} | overrides))
    with pytest.raises(ValueError, match=needle):
        GeometryReader(policy, **SIZES)
