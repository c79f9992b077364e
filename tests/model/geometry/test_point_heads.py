"""Points of a backbone's own heads: where cells lie, in which frame, and how far they are trusted."""

import pytest
import torch

from lerobot_atlasvla.model.geometry.point_heads import PointHeads, cell_rays, rotation_from_columns
from tests.helpers.geometry.backbone import INTRINSICS, record

GRID = (2, 3)
WIDTH = 12


def heads(**settings) -> PointHeads:
    torch.manual_seed(0)
    sizes = record(**settings).heads
    assert sizes is not None
    return PointHeads(WIDTH, sizes)


def layer(views: int = 2, specials: int = 3) -> torch.Tensor:
    return torch.randn(2, views, specials + GRID[0] * GRID[1], WIDTH, generator=torch.Generator().manual_seed(1))


def test_cells_are_row_by_row_over_the_whole_view():
    module = heads()
    with torch.no_grad():
        module.cell_mlp.fc2.weight.zero_()
        # Of a patch's 2 x 2 cells, only the lower left one is far away.
        bias = module.cell_mlp.fc2.bias.zero_().view(2, 2, -1)
        bias[1, 0, 0] = 1.0
    far = module(layer(), GRID).log_depth_BVQ[0, 0].view(4, 6) > 0.5
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1::2, 0::2] = True
    assert torch.equal(far, expected)


def test_a_patch_is_where_the_grid_has_it():
    module, tokens = heads(), layer()
    before = module(tokens, GRID).log_depth_BVQ[0, 1].view(4, 6)
    tokens[0, 1, 3 + 1 * 3 + 2] += 5.0  # second row, third column; three special tokens come first
    changed = module(tokens, GRID).log_depth_BVQ[0, 1].view(4, 6) != before
    assert changed[2:, 4:].all()
    assert not changed[:2].any()
    assert not changed[:, :4].any()


def test_points_are_depth_along_the_ray_moved_by_the_pose():
    found = heads()(layer(), GRID)
    rays = cell_rays(torch.tensor(INTRINSICS).view(3, 3), (4, 6))
    local = rays * found.log_depth_BVQ.exp()[..., None]
    points = torch.einsum("bvij,bvqj->bvqi", found.rotation_BV33, local) + found.translation_BV3[:, :, None]
    torch.testing.assert_close(found.points_BVQ3, points)
    # The picture is mirrored: its first column is what the camera has on its right.
    assert rays[0, 0] > 0 > rays[5, 0]
    assert rays[0, 1] < 0


def test_a_policy_in_bfloat16_does_not_round_the_points():
    module, tokens = heads(), layer()
    plain = module(tokens, GRID)
    with torch.autocast("cpu", torch.bfloat16):
        inside = module(tokens, GRID)
    assert all(part.dtype == torch.float32 for part in inside)
    assert all(map(torch.equal, inside, plain))


@pytest.mark.parametrize(("frame", "identity"), [("first_view", True), ("base", False)])
def test_the_first_view_is_the_frame_unless_that_is_the_base(frame, identity):
    found = heads(frame=frame)(layer(), GRID)
    same = torch.equal(found.rotation_BV33[:, 0], torch.eye(3).expand(2, 3, 3))
    assert same == identity
    assert (not found.translation_BV3[:, 0].any()) == identity
    assert found.translation_BV3[:, 1].any()
    turned = found.rotation_BV33[:, 1]
    torch.testing.assert_close(turned @ turned.transpose(1, 2), torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(2))


def test_the_backbone_offers_its_points_with_and_without_registers():
    from lerobot_atlasvla.pretraining.network import PretrainingNetwork

    torch.manual_seed(0)
    backbone = PretrainingNetwork(record()).backbone.eval()
    output = backbone(torch.rand(3, 2, 3, 32, 32), backbone.point_layers)
    points = backbone.points(output.layers, (4, 4))
    cells = 16 * backbone.cells_per_patch
    assert points.points_BVQ3.shape == (3, 2, cells, 3)
    assert points.confidence_BVQ.shape == (3, 2, cells)
    assert ((points.confidence_BVQ > 0) & (points.confidence_BVQ < 1)).all()
    assert points.descriptors_BVQE.shape == (3, 2, cells, backbone.descriptor_dim)
    torch.testing.assert_close(points.descriptors_BVQE.norm(dim=-1), torch.ones(3, 2, cells))
    assert torch.equal(points.poses_BV34[:, 0], torch.eye(3, 4).expand(3, 3, 4))
    (last,) = output.layers
    without = torch.cat((last[:, :, :1], last[:, :, output.patch_start_idx :]), dim=2)
    assert all(torch.equal(a, b) for a, b in zip(points, backbone.points([without], (4, 4)), strict=True))


def test_one_view_of_several_will_do_and_more_are_refused():
    module = heads()
    both = module(layer(), GRID)
    one = module(layer()[:, :1], GRID)
    assert torch.equal(one.points_BVQ3, both.points_BVQ3[:, :1])
    with pytest.raises(ValueError, match="knows 2 views, got 3"):
        module(layer(views=3), GRID)


def test_a_rotation_comes_back_from_its_columns():
    rotation, _ = torch.linalg.qr(torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(2)))
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    columns = rotation[:, :, :2].transpose(1, 2).flatten(1)
    torch.testing.assert_close(rotation_from_columns(3 * columns), rotation)
