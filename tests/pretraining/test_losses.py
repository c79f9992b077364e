"""The truth has no loss and no error, and what is said of the data is what a pinhole camera saw."""

import pytest
import torch

from lerobot_atlasvla.model.geometry.point_heads import ScenePoints
from lerobot_atlasvla.pretraining.batches import Batch, balance, draw_views, make_batch
from lerobot_atlasvla.pretraining.data import APART_M, read_data
from lerobot_atlasvla.pretraining.evaluation import FARTHEST_MATCH_M, _add_view_errors, _match_errors
from lerobot_atlasvla.pretraining.losses import distances, loss_terms, match_loss, view_pairs
from lerobot_atlasvla.pretraining.settings import PretrainConfig
from tests.helpers.geometry.dataset import write_geometry_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_geometry_dataset(tmp_path_factory.mktemp("data") / "geometry", episodes=3, frames=2)
    return read_data(PretrainConfig(dataset_root=root, output_dir=root))


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Data that tell what is where: half of the floor slides from state to state."""
    root = write_geometry_dataset(tmp_path_factory.mktemp("data") / "geometry", episodes=3, frames=4, objects=True)
    return read_data(PretrainConfig(dataset_root=root, output_dir=root))


@pytest.fixture(params=["first_view", "base", "first_view, objects"])
def batch(data, objects, request) -> Batch:
    frame, *more = request.param.split(", ")
    return make_batch(objects if more else data, torch.arange(4), torch.Generator().manual_seed(0), frame)


def truth(batch: Batch) -> ScenePoints:
    """Descriptors that tell every place from every other."""
    waves = torch.cat([batch.places_BVQ4 * factor for factor in (20.0, 41.0, 67.0)], dim=-1)
    described = torch.nn.functional.normalize(torch.cat((waves.sin(), waves.cos()), dim=-1), dim=-1)
    return ScenePoints(
        log_depth_BVQ=batch.depth_BVQ.log(),
        direct_BVQ3=batch.points_BVQ3,
        descriptors_BVQE=described,
        confidence_BVQ=torch.full_like(batch.depth_BVQ, 50.0),
        rotation_BV33=batch.rotation_BV33,
        translation_BV3=batch.translation_BV3,
        points_BVQ3=batch.points_BVQ3,
    )


def test_points_lie_where_the_camera_saw_them(batch):
    # The scene is a floor.
    assert batch.places_BVQ4[..., 2].abs().max() < 1e-5
    back = batch.points_BVQ3 @ batch.rotation_BV33[:, :1].transpose(-1, -2)
    assert back.isfinite().all()
    # Points of the frame and depth of the camera: the first view's z is its depth, where it is the frame.
    if torch.equal(batch.rotation_BV33[0, 0], torch.eye(3)) or batch.translation_BV3[:, 0].abs().max() < 1e-5:
        torch.testing.assert_close(batch.points_BVQ3[:, 0, :, 2], batch.depth_BVQ[:, 0], atol=1e-5, rtol=1e-5)


def test_poses_lead_from_the_camera_to_the_points(batch):
    local = torch.einsum("bvji,bvqj->bvqi", batch.rotation_BV33, batch.points_BVQ3 - batch.translation_BV3[:, :, None])
    torch.testing.assert_close(local[..., 2], batch.depth_BVQ, atol=1e-5, rtol=1e-5)


def test_the_truth_has_no_loss_and_every_mistake_has_one(batch):
    found = truth(batch)
    terms = loss_terms(found, batch.colors_BVQ3, batch, torch.Generator().manual_seed(1))
    exact = {name: term.item() for name, term in terms.items() if name != "match"}
    assert exact == pytest.approx(dict.fromkeys(exact, 0.0), abs=1e-6)
    mistakes = {
        "log_depth": {"log_depth_BVQ": found.log_depth_BVQ + 0.1},
        "direct_points": {"direct_BVQ3": found.direct_BVQ3 + 0.1},
        "points": {"points_BVQ3": found.points_BVQ3 + 0.1},
        "pose": {"translation_BV3": found.translation_BV3 + 0.1},
        "confidence": {"confidence_BVQ": -found.confidence_BVQ},
    }
    for name, change in mistakes.items():
        wrong = loss_terms(found._replace(**change), batch.colors_BVQ3, batch, torch.Generator().manual_seed(1))
        assert wrong[name] > 0.05, name
    wrong = loss_terms(found, batch.colors_BVQ3 + 0.1, batch, None)
    assert wrong["color"] > 0.05


def test_descriptors_of_places_match_better_than_those_of_cells(batch):
    found = truth(batch)
    generator = torch.Generator().manual_seed(1)
    good = match_loss(found.descriptors_BVQE, batch, generator)
    shuffled = found.descriptors_BVQE[:, :, torch.randperm(found.descriptors_BVQE.shape[2], generator=generator)]
    assert good < match_loss(shuffled, batch, torch.Generator().manual_seed(1)) - 0.5


def test_the_truth_has_no_error(batch):
    kinds = (
        "depth_cm",
        "points_cm",
        "direct_points_cm",
        "sure_points_cm",
        "small_points_cm",
        "camera_cm",
        "camera_deg",
    )
    errors: dict = {f"{role}_{kind}": [] for role in "ab" for kind in kinds}
    for view, role in enumerate("ab"):
        _add_view_errors(errors, truth(batch), batch, view, role, posed=True)
    for name, values in errors.items():
        (found,) = values
        assert len(found) or "small" in name, f"no {name}"  # the walls of this scene are no small things
        assert (found < (0.1 if name.endswith("deg") else 1e-3)).all(), name
    off = truth(batch)._replace(points_BVQ3=batch.points_BVQ3 + torch.tensor([0.03, 0.04, 0.0]))
    shifted = {name: [] for name in errors}
    _add_view_errors(shifted, off, batch, 1, "b", posed=True)
    torch.testing.assert_close(torch.cat(shifted["b_points_cm"]).median(), torch.tensor(5.0), atol=1e-3, rtol=0)
    for one, other in view_pairs(batch):
        errors_of_matches, _ = _match_errors(truth(batch), batch, one, other)
        assert errors_of_matches.max() <= FARTHEST_MATCH_M
        assert errors_of_matches.median() <= 0.025


def test_a_place_is_the_same_wherever_its_body_has_slid(objects):
    """The floor's pattern slides with it: what a cell looks like says where on its body it is, and not in space."""
    batch = make_batch(objects, torch.arange(12), torch.Generator().manual_seed(0), "base")
    places, colors = batch.places_BVQ4[:, 1:], batch.colors_BVQ3[:, 1:]
    sliding = places[..., 3] == APART_M
    assert 0.1 < sliding.float().mean() < 0.9
    assert set(places[..., 3].unique().tolist()) == {0.0, APART_M}
    pattern = 127 + 100 * torch.cos(7 * places[..., 1])
    assert ((colors[..., 1] * 255 - pattern).abs() < 20).float().mean() > 0.95, "all but cells at the edge"
    slid = [batch.points_BVQ3[one, 1, :, 1] - places[one, 0, :, 1] for one in range(24)]
    slid = torch.stack([offset[sliding[one, 0]].mean() for one, offset in enumerate(slid)])
    assert ((slid[:12] - slid[12:]).abs() > 1e-3).all(), "the second samples are other states"
    moved = (batch.points_BVQ3[:, 1:, :, 1] - places[..., 1]).abs()
    assert moved[sliding].max() > 0.1
    assert moved[~sliding].max() < 1e-5


def test_the_second_samples_are_other_states_of_the_same_episodes(objects):
    states = torch.arange(12)
    for generator in (None, torch.Generator().manual_seed(0)):
        others = objects.others(states, generator)
        assert (others != states).all()
        assert torch.equal(objects.episodes_N[others], objects.episodes_N[states])
    drawn = torch.stack([objects.others(states, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert all(len(drawn[:, state].unique()) == 3 for state in states)


def test_a_match_with_another_thing_counts_as_a_meter(objects):
    batch = make_batch(objects, torch.arange(4), None, "base")
    # All cells look alike, and the first one is the best match of all.
    alike = truth(batch)._replace(descriptors_BVQE=torch.ones_like(truth(batch).descriptors_BVQE))
    off, _ = _match_errors(alike, batch, *next(view_pairs(batch)))
    assert off.max() == FARTHEST_MATCH_M


def test_distances_within_a_body_do_not_suffer_from_those_between_bodies():
    places = torch.tensor([[[0.01, 0.02, 0.03, 500 * APART_M], [0.01, 0.02, 0.035, 500 * APART_M]]])
    others = torch.tensor([[[0.01, 0.02, 0.03, 500 * APART_M]] * 40])
    torch.testing.assert_close(distances(places, others)[0, :, 0], torch.tensor([0.0, 0.005]))


def test_cells_of_small_bodies_count_more():
    # In other views, there is as much of something as there is.
    bodies = torch.tensor([[[0.0] * 9 + [10.0] * 4 + [20.0], [20.0] * 14], [[10.0] * 14, [0.0] * 13 + [30.0]]])
    weights = balance(bodies)
    assert torch.equal(weights[0, 1], torch.ones(14))
    assert torch.equal(weights[1, 0], torch.ones(14))
    weight = weights[0, 0]
    torch.testing.assert_close(weight / weight[0], torch.tensor([1.0] * 9 + [1.5] * 4 + [3.0]))
    assert weight.mean() == pytest.approx(1)


def test_both_samples_of_a_state_see_it_through_different_cameras(data):
    views = draw_views(data, 50, 2, torch.Generator().manual_seed(0))
    assert views.shape == (100, 2)
    assert (views[:, 0] == 0).all()
    assert (views[:50, 1] != views[50:, 1]).all()
    assert set(views[:, 1].tolist()) == {1, 2}


def test_brightness_changes_pictures_and_not_the_truth(data):
    plain = make_batch(data, torch.arange(2), None, "base")
    drawn = make_batch(data, torch.arange(2), torch.Generator().manual_seed(3), "base")
    same = draw_views(data, 2, 2, torch.Generator().manual_seed(3))[:, 0] == 0
    assert same.all()
    ratio = drawn.images_BV3HW[:, 0] / plain.images_BV3HW[:, 0].clamp_min(1e-3)
    assert not torch.allclose(ratio, torch.ones_like(ratio), atol=0.01)
    assert torch.equal(drawn.colors_BVQ3[:, 0], plain.colors_BVQ3[:, 0])
    # Colors are the cells' own, row by row.
    cell = plain.images_BV3HW[0, 0, :, 4:8, 12:16].mean(dim=(1, 2))
    torch.testing.assert_close(plain.colors_BVQ3[0, 0, 1 * 8 + 3], cell)
