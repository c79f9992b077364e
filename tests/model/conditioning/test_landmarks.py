"""Landmarks: where they are, when they are seen, what training adds, and in which frame."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lerobot_atlasvla.model.conditioning.landmarks import DROPOUT, UNIT_M, Landmarks, farthest_points
from lerobot_atlasvla.model.conditioning.scene_cameras import Placement, SceneCameras
from lerobot_atlasvla.model.geometry import poses
from lerobot_atlasvla.model.geometry.points import PointMap
from lerobot_atlasvla.model.geometry.vggt_heads import Depth
from lerobot_atlasvla.model.geometry.vggt_points import VGGTPointHeads, depth_layers

VIEWS, CELLS, WIDTH, KEPT = 2, 9, 16, 3


def random_poses(*shape: int, seed: int = 0, angle: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(*shape, 3, generator=generator) * angle
    return poses.pose_of(poses.rotation_of_vector(vector), torch.randn(*shape, 3, generator=generator) * 0.3)


def identity(*shape: int) -> torch.Tensor:
    return torch.eye(4)[:3].expand(*shape, 3, 4).clone()


def scene(batch: int = 1, seed: int = 0) -> PointMap:
    """Cells whose looks have nothing in common, at random places."""
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q[:CELLS]
    return PointMap(
        torch.randn(batch, VIEWS, CELLS, 3, generator=generator) * 0.2,
        torch.ones(batch, VIEWS, CELLS),
        descriptors.expand(batch, VIEWS, CELLS, WIDTH).clone(),
        torch.cat((identity(batch, 1), random_poses(batch, VIEWS - 1, seed=seed)), dim=1),
    )


def landmarks(points: PointMap, cells: list[int], **settings) -> Landmarks:
    """Landmarks that look for some of the first sample's cells."""
    module = Landmarks(VIEWS, len(cells), WIDTH, **settings).eval()
    module.prototypes_VKE.data.copy_(points.descriptors_BVQE[0, :, cells])
    module.started.fill_(True)
    return module


def read(module: Landmarks, points: PointMap, placement: Placement | None = None):
    """Positions (B, V, K, 3), visibility taken out, and visibilities (B, V, K)."""
    found = module(points, placement).unflatten(1, (VIEWS, -1, 4))
    return found[..., :3] / found[..., 3:] * UNIT_M + module.centers_VK3, found[..., 3]


def test_a_landmark_is_where_its_look_is_and_not_the_middle_of_the_view():
    points = scene()
    where, seen = read(landmarks(points, [4, 0, 7]), points)
    torch.testing.assert_close(where[0], points.points_BVQ3[0][:, [4, 0, 7]], rtol=0, atol=1e-3)
    assert (seen > 0.95).all()
    # The same things at other places of the picture, as another camera shows them.
    order = torch.randperm(CELLS, generator=torch.Generator().manual_seed(3))
    moved = PointMap(*(part[:, :, order] for part in points[:3]), points.poses_BV34)
    torch.testing.assert_close(read(landmarks(points, [4, 0, 7]), moved)[0], where, rtol=0, atol=1e-5)


def test_what_is_out_of_sight_or_not_trusted_says_nothing():
    points = scene()
    module = landmarks(points, [4, 0, 7])
    points.descriptors_BVQE[:, :, 4] = points.descriptors_BVQE[:, :, 5]
    found = module(points).unflatten(1, (VIEWS, -1, 4))
    assert found[:, :, 0].abs().max() < 1e-3
    assert (found[:, :, 1:, 3] > 0.95).all()
    points.confidence_BVQ[:] = 0
    assert module(points).abs().max() < 1e-6


def test_what_is_everywhere_is_nowhere():
    points = scene()
    alike = points.descriptors_BVQE.clone()
    alike[:, 0, [1, 2]] = alike[:, 0, [0]]  # in the first view, this look is at three places
    points = points._replace(descriptors_BVQE=alike)
    module = landmarks(points, [0])
    where, seen = read(module, points)
    assert seen[0, 0, 0] < 0.05
    assert seen[0, 1, 0] > 0.95
    # Three cells of one thing are one place.
    places = points.points_BVQ3.clone()
    places[:, 0, :3] = places[:, 0, :1] + torch.tensor([[-0.01], [0.0], [0.01]])
    where, seen = read(module, points._replace(points_BVQ3=places))
    assert seen[0, 0, 0] > 0.9
    torch.testing.assert_close(where[0, 0, 0], places[0, 0, 1], rtol=0, atol=1e-3)


def test_an_unsure_cell_gives_way_to_a_sure_one():
    points = scene()
    points.descriptors_BVQE[:, :, 5] = points.descriptors_BVQE[:, :, 4]
    points.confidence_BVQ[:, :, 4] = 0.001
    where, _ = read(landmarks(points, [4]), points)
    torch.testing.assert_close(where[:, :, 0], points.points_BVQ3[:, :, 5], rtol=0, atol=2e-3)


def test_what_lies_outside_the_box_does_not_count():
    points = scene()
    points.points_BVQ3[:] = torch.arange(CELLS)[:, None] * 0.1
    module = landmarks(points, [8, 2], box=(-0.01, -0.01, -0.01, 0.55, 0.55, 0.55))
    found = module(points).unflatten(1, (VIEWS, -1, 4))
    assert found[:, :, 0, 3].max() < 1e-3
    place = found[0, 0, 1, :3] / found[0, 0, 1, 3] * UNIT_M
    torch.testing.assert_close(place, torch.full((3,), 0.2), rtol=0, atol=1e-3)
    nothing = landmarks(points, [8, 2], box=(5.0, 5.0, 5.0, 6.0, 6.0, 6.0))(points)
    assert nothing.isfinite().all()
    assert nothing.abs().max() < 1e-6


def test_training_leaves_landmarks_out_and_shifts_what_stands_still():
    points = scene(batch=400)
    points = PointMap(*(part[:1].expand_as(part) for part in points))
    module = landmarks(points, [4, 0, 7], noise_m=0.03)
    plain = read(module, points)[0]
    torch.manual_seed(0)
    found = module.train()(points).unflatten(1, (VIEWS, -1, 4))
    kept = found[..., 3] > 0
    assert abs(1 - kept.float().mean() - DROPOUT) < 0.03
    assert found[~kept].abs().max() == 0
    shifts = torch.where(kept[..., None], found[..., :3] / found[..., 3:] * UNIT_M - plain, torch.nan)
    torch.testing.assert_close(shifts[:, 0].nan_to_num(), torch.zeros(400, 3, 3), rtol=0, atol=1e-5)
    assert 0.027 < shifts[:, 1].nanmean(dim=1).nan_to_num().std() < 0.033
    # The view as a whole.
    both = shifts[kept[:, 1].all(dim=1), 1]
    torch.testing.assert_close(both[:, 1:], both[:, :1].expand(-1, 2, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(read(module.eval(), points)[0], plain)


def test_training_turns_what_stands_still_about_its_middle():
    points = scene(batch=300)
    points = PointMap(*(part[:1].expand_as(part) for part in points))
    module = landmarks(points, [4, 0, 7], turn_deg=10.0)
    plain, seen = read(module, points)
    torch.manual_seed(0)
    found = module.train()(points).unflatten(1, (VIEWS, -1, 4))
    kept = (found[..., 3] > 0).all(dim=-1)
    turned = (found[..., :3] / found[..., 3:])[kept[:, 1], 1] * UNIT_M + module.centers_VK3[1]
    before = plain[0, 1]
    # All stay as far from each other, and where they are on average.
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(before, before).expand(len(turned), -1, -1))
    middle = (before * seen[0, 1, :, None]).sum(dim=0) / seen[0, 1].sum()
    weighted = (turned * seen[0, 1, :, None]).sum(dim=1) / seen[0, 1].sum()
    torch.testing.assert_close(weighted, middle.expand(len(turned), 3), atol=1e-4, rtol=0)
    moved = (turned - before).norm(dim=-1).mean(dim=0)
    arm = (before - middle).norm(dim=-1)
    # Two of three axes move a point: the mean of a Rayleigh distribution.
    torch.testing.assert_close(moved / arm, torch.full((3,), 0.1745 * 1.2533), atol=0.03, rtol=0)
    torch.testing.assert_close(found[kept[:, 0], 0, :, :3].std(dim=0).max(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_a_first_camera_that_stands_still_is_shifted_too():
    points = scene(batch=50)
    module = landmarks(points, [4], noise_m=0.03, first_moves=False).train()
    assert module(points).unflatten(1, (VIEWS, -1, 4))[:, 0, 0, :3].std(dim=0).min() > 0.01 / UNIT_M


def test_prototypes_start_among_the_first_batchs_cells_and_only_once():
    points = scene(batch=4)
    module = Landmarks(VIEWS, KEPT, WIDTH).train()
    module(points)
    likeness = module.prototypes_VKE @ points.descriptors_BVQE[0].mT
    assert (likeness.amax(dim=-1) > 0.999).all()
    assert all(len(set(row.tolist())) == KEPT for row in likeness.argmax(dim=-1))
    start = module.prototypes_VKE.detach().clone()
    # All samples show the same looks, at places of their own.
    mean = torch.stack([points.points_BVQ3[:, v, likeness[v].argmax(dim=-1)].mean(dim=0) for v in range(VIEWS)])
    torch.testing.assert_close(module.centers_VK3, mean, rtol=0, atol=1e-3)
    offsets = module.eval()(points).unflatten(1, (VIEWS, KEPT, 4))[..., :3]
    assert offsets.mean(dim=0).abs().max() < 0.1
    assert offsets.std() > 1
    module.train()
    resumed = Landmarks(VIEWS, KEPT, WIDTH).train()
    resumed.load_state_dict(module.state_dict())
    for one in (module, resumed):
        one(scene(batch=4, seed=1))
        assert torch.equal(one.prototypes_VKE, start)
        torch.testing.assert_close(one.centers_VK3, mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("trust", [1e-6, 0.0])
def test_centers_are_where_landmarks_are_however_little_is_seen_of_them_at_first(trust):
    points = scene(batch=4)
    trusted, doubted = (Landmarks(VIEWS, KEPT, WIDTH).train() for _ in range(2))
    trusted(points)
    doubted(points._replace(confidence_BVQ=points.confidence_BVQ * trust))
    torch.testing.assert_close(doubted.centers_VK3, trusted.centers_VK3, rtol=0, atol=1e-3)


def test_farthest_points_are_all_different_and_repeat_only_for_lack_of_others():
    cells = F.normalize(torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=-1)
    chosen = {tuple(row) for row in farthest_points(cells, 3).round(decimals=2).tolist()}
    assert {(0.0, 1.0), (-1.0, 0.0)} < chosen
    assert farthest_points(cells[:1], 3).shape == (3, 2)


# --- frames ---


def seen_from(base_BQ3: torch.Tensor, cameras_BV34: torch.Tensor) -> PointMap:
    """Points of the robot base's frame as a perfect backbone gives them, in the first camera's frame."""
    first = poses.inverse(cameras_BV34[:, :1])
    points = poses.transform(first, base_BQ3[:, None].expand(-1, VIEWS, -1, -1))
    return scene(len(base_BQ3))._replace(points_BVQ3=points, poses_BV34=poses.compose(first, cameras_BV34))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_in_the_base_frame_points_do_not_care_where_the_cameras_are(scale):
    base = torch.randn(2, CELLS, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    module = Landmarks(VIEWS, 1, WIDTH, frame="base", scale=scale)
    for seed in range(3):
        cameras = random_poses(2, VIEWS, seed=seed)
        points = seen_from(base, cameras)
        points = points._replace(
            points_BVQ3=points.points_BVQ3 / scale, poses_BV34=poses.scaled(points.poses_BV34, 1 / scale)
        )
        found = module.place(points, Placement(cameras[:, 0]))
        torch.testing.assert_close(found, base[:, None].expand(-1, VIEWS, -1, -1), rtol=0, atol=1e-5)


def test_a_backbone_that_sees_the_base_needs_no_calibration():
    cameras = random_poses(2, VIEWS)
    points = scene(2)._replace(poses_BV34=cameras)
    module = Landmarks(VIEWS, 1, WIDTH, point_frame="base", frame="base")
    torch.testing.assert_close(module.place(points, None), points.points_BVQ3)
    local = Landmarks(VIEWS, 1, WIDTH, point_frame="base").place(points, None)
    torch.testing.assert_close(poses.transform(cameras[:, :1], local), points.points_BVQ3)


def test_without_a_calibration_points_stay_in_the_first_cameras_frame():
    points = scene()
    cameras = SceneCameras()
    found = Landmarks(VIEWS, 1, WIDTH, scale=2.0).place(points, Placement(None, cameras))
    torch.testing.assert_close(found, points.points_BVQ3 * 2)


@pytest.mark.parametrize("frame", ["base", "first_view"])
def test_over_an_episode_a_jittering_camera_comes_to_rest(frame):
    """A perfect backbone but for the scene camera's pose; the hand moves from frame to frame."""
    base = torch.randn(2, CELLS, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    still = random_poses(2, seed=9)
    module, episode, errors = Landmarks(VIEWS, 1, WIDTH, frame=frame), SceneCameras(), []
    for step in range(30):
        hand = random_poses(2, seed=100 + step)
        local = poses.transform(poses.inverse(still), base)
        jitter = random_poses(2, seed=200 + step, angle=0.05)
        guess = poses.compose(still, poses.scaled(jitter, 0.1))
        points = seen_from(base, torch.stack((hand, guess), dim=1))
        points.points_BVQ3[:, 1] = poses.transform(points.poses_BV34[:, 1], local)
        found = module.place(points, Placement(hand, episode))
        expected = base if frame == "base" else poses.transform(poses.inverse(hand), base)
        torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-5)
        errors.append((found[:, 1] - expected).norm(dim=-1).mean())
        single = module.place(points, Placement(hand))[:, 1]
        assert step or torch.allclose(found[:, 1], single, atol=1e-5)
    assert sum(errors[-5:]) / 5 < 0.4 * sum(errors[:5]) / 5


def test_the_mean_of_rotations_is_a_rotation_and_the_right_one():
    turn = poses.rotation_of_vector(torch.tensor([[0.0, 0.0, a] for a in (3.0, -3.0, torch.pi)]))
    mean = poses.nearest_rotation(turn.sum(dim=0))
    torch.testing.assert_close(mean, poses.rotation_of_vector(torch.tensor([0.0, 0.0, torch.pi])))
    scattered = poses.nearest_rotation(torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(torch.linalg.det(scattered), torch.ones(50))
    torch.testing.assert_close(scattered @ scattered.mT, torch.eye(3).expand(50, 3, 3), rtol=0, atol=1e-5)


def test_environments_have_cameras_of_their_own_and_other_numbers_of_them_start_anew():
    episode, frames = SceneCameras(), [random_poses(3, VIEWS, seed=seed) for seed in range(4)]
    together = [episode.update(frame, first_moves=True) for frame in frames]
    for index in range(3):
        alone = SceneCameras()
        for frame, expected in zip(frames, together, strict=True):
            torch.testing.assert_close(alone.update(frame[[index]], first_moves=True)[0], expected[index])
    torch.testing.assert_close(episode.update(frames[0][:2], first_moves=True), frames[0][:2], rtol=0, atol=1e-5)


def test_a_first_camera_that_moves_is_not_averaged():
    frames = [random_poses(2, VIEWS, seed=seed) for seed in range(3)]
    moving, still = SceneCameras(), SceneCameras()
    for frame in frames:
        assert torch.equal(moving.update(frame, first_moves=True)[:, 0], frame[:, 0])
        last = still.update(frame, first_moves=False)
    torch.testing.assert_close(last[:, 0, :, 3], torch.stack(frames).mean(dim=0)[:, 0, :, 3])


# --- VGGT's own heads ---


def test_the_layers_are_those_of_vggt():
    assert depth_layers(24) == (4, 11, 17, 23)
    assert depth_layers(4) == (0, 1, 2, 3)
    assert all(0 <= layer < depth for depth in range(1, 30) for layer in depth_layers(depth))


def test_vggts_depth_and_cameras_become_points_on_the_plane_that_they_are_of(monkeypatch):
    """Two cameras that look at the floor; VGGT's world is not quite the first one's frame."""
    heads = VGGTPointHeads(32, 4, 8)
    rows, columns, side = 3, 5, 8
    cameras = random_poses(1, VIEWS, angle=0.2)
    cameras[..., 3] += torch.tensor([0.0, 0.0, -2.0])
    view_angles = torch.tensor([[[0.7, 0.9], [0.8, 1.0]]])
    y, x = torch.meshgrid(torch.arange(rows * side) + 0.5, torch.arange(columns * side) + 0.5, indexing="ij")
    across = torch.stack((x / columns / side * 2 - 1, y / rows / side * 2 - 1), dim=-1)
    tangents = (view_angles / 2).tan().flip(-1)
    rays = torch.cat((across * tangents[:, :, None, None], torch.ones(1, VIEWS, rows * side, columns * side, 1)), -1)
    turned = torch.einsum("bvij,bvyxj->bvyxi", cameras[..., :3], rays)
    # The floor is z = 0 of the world.
    depth = -cameras[:, :, None, None, 2, 3] / turned[..., 2]
    outward = poses.inverse(cameras)
    trace = outward[..., :3].diagonal(dim1=-2, dim2=-1).sum(-1)
    w = (1 + trace).sqrt() / 2
    r = outward
    xyz = torch.stack((r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]), -1)
    encoding = torch.cat((outward[..., 3], xyz / (4 * w[..., None]), w[..., None], view_angles), dim=-1)
    monkeypatch.setattr(heads.camera_head, "forward", lambda layer: [encoding])
    monkeypatch.setattr(heads.depth_head, "forward", lambda *_: Depth(depth[..., None], torch.full_like(depth, 4)))
    patches = torch.randn(1, VIEWS, rows * columns, 32)
    found = heads.points([torch.zeros(1, VIEWS, 20, 64)] * 4, (rows, columns), patches, 5)
    world = poses.transform(cameras[:, :1], found.points_BVQ3)
    assert world[..., 2].abs().max() < 0.05
    assert world[..., :2].std() > 0.3
    torch.testing.assert_close(found.poses_BV34[:, 0], identity(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(poses.compose(cameras[:, :1], found.poses_BV34), cameras, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.confidence_BVQ, torch.full((1, VIEWS, rows * columns), 0.75))
    torch.testing.assert_close(found.descriptors_BVQE.norm(dim=-1), torch.ones(1, VIEWS, rows * columns))
