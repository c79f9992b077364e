"""The geometry check measures what it says: on made-up scenes, on backbones of known faults, on a small random VGGT."""

import json

import numpy as np
import pytest
import torch

from eval.offline.geometry_check import main
from lerobot_atlasvla.inspection.point_errors import (
    GeometryEstimate,
    Truth,
    View,
    compare,
    estimate_geometry,
    overlap,
    point_errors_cm,
)
from lerobot_atlasvla.model.geometry import poses
from lerobot_atlasvla.model.geometry.points import PointMap
from tests.helpers.geometry.dataset import CELLS, PIXELS, write_geometry_dataset
from tests.helpers.released import write_da3, write_vggt, write_with_heads

FOCAL = 40.0


def camera(seed: int) -> torch.Tensor:
    """About 1.5 m above the floor (z = 0), looking down at it."""
    generator = torch.Generator().manual_seed(seed)
    down = poses.rotation_of_vector(torch.tensor([torch.pi, 0.0, 0.0]))
    tilt = poses.rotation_of_vector(torch.randn(3, generator=generator) * 0.1)
    place = torch.tensor([0.0, 0.0, 1.5]) + torch.randn(3, generator=generator) * 0.1
    return poses.pose_of(down @ tilt, place)


def view(seed: int, *, mirrored: bool = False) -> View:
    """The floor from a camera: its depth in every cell."""
    pose = camera(seed)
    focal = -FOCAL if mirrored else FOCAL
    intrinsics = torch.tensor([[focal, 0.0, 17.0], [0.0, FOCAL, 16.0], [0.0, 0.0, 1.0]])
    at = (torch.arange(CELLS) + 0.5) * PIXELS / CELLS
    y, x = torch.meshgrid(at, at, indexing="ij")
    rays = torch.stack((x, y, torch.ones_like(x)), dim=-1) @ torch.linalg.inv(intrinsics).mT @ pose[:, :3].mT
    image = torch.rand(3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))
    return View(image, -pose[2, 3] / rays[..., 2], intrinsics, pose)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_geometry_dataset(tmp_path_factory.mktemp("geometry") / "data", episodes=1, frames=3)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    root = write_with_heads(tmp_path_factory.mktemp("released"))
    write_vggt(root / "bare")
    return root


class Knowing(torch.nn.Module):
    """Gives the true points of a frame in a unit of its own, with the cameras off by a known step and turn."""

    patch_size, point_layers, cells_per_patch = 4, (), 1

    def __init__(self, truth: Truth, unit: float, step_m: float = 0.0, turn_deg: float = 0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.truth, self.unit, self.step_m, self.turn_deg = truth, unit, step_m, turn_deg
        self.shown = None

    def embed(self, images):
        self.shown = images
        return images

    def attend(self, patches, grid, layers):
        return type("Output", (), {"layers": []})

    def points(self, layers, grid, patches):
        points, _ = self.truth.points(grid)
        turn = poses.rotation_of_vector(torch.tensor([0.0, 0.0, np.deg2rad(self.turn_deg)]).float())
        off = poses.pose_of(turn, torch.tensor([self.step_m, 0.0, 0.0]))
        cameras = self.truth.poses()
        cameras = torch.cat((cameras[:1], poses.compose(cameras[1:], off)))
        scaled = poses.scaled(cameras, self.unit)
        return PointMap(points[None] * self.unit, torch.ones(1), torch.ones(1), scaled[None])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("cells", [CELLS, CELLS // 2, 5])
def test_the_floor_is_flat_from_any_camera(mirrored, cells):
    """Whatever the backbone's cells: places between those of the truth lie on the floor, too."""
    truth = Truth([view(0), view(1, mirrored=mirrored)], unmirror=True).upright()
    points, known = truth.points((cells, cells))
    base = poses.transform(truth.views[0].pose_34, points)
    assert known.all()
    assert base[..., 2].abs().max() < 1e-5
    assert (truth.views[1].intrinsics_33.diagonal() > 0).all()


def test_mirrored_views_keep_their_points_when_they_are_turned_round():
    truth = Truth([view(0), view(1, mirrored=True)], unmirror=True)
    before, after = (one.points((CELLS, CELLS))[0][1] for one in (truth, truth.upright()))
    swapped = before.unflatten(0, (CELLS, CELLS)).flip(1).flatten(0, 1)
    torch.testing.assert_close(after, swapped, rtol=0, atol=1e-5)


def test_what_a_backbone_of_known_faults_gets():
    truth = Truth([view(0), view(1, mirrored=True)], unmirror=True)
    backbone = Knowing(truth.upright(), unit=0.4, step_m=0.05, turn_deg=3.0)
    estimate = estimate_geometry(backbone, truth, (PIXELS, PIXELS))
    row = compare(estimate, [1.0, 20.0])
    assert row["scale"] == pytest.approx(0.4, rel=1e-4)
    assert row["spread"] == pytest.approx(1, abs=1e-4)
    assert max(row["point_cm"]) < 1e-2
    assert row["camera_cm"] == pytest.approx([0, 5], abs=1e-2)
    assert row["camera_deg"] == pytest.approx([0, 3], abs=0.1)
    half = point_errors_cm(estimate, 0.2)
    assert half == pytest.approx(row["distance_cm"], rel=1e-3)
    # The mirrored picture was shown the right way round.
    assert torch.equal(backbone.shown[0, 1], truth.views[1].image_3HW.flip(-1))
    assert torch.equal(backbone.shown[0, 0], truth.views[0].image_3HW)
    as_stored = Truth(truth.views, unmirror=False)
    estimate_geometry(backbone, as_stored, (PIXELS, PIXELS))
    assert torch.equal(backbone.shown[0, 1], truth.views[1].image_3HW)


def test_overlap_is_the_share_of_the_first_views_cells():
    points = torch.zeros(2, 4, 3)
    points[0, :, 0] = torch.tensor([0.0, 0.015, 0.5, 9.0])
    points[1, :, 0] = torch.tensor([0.0, 0.0, 0.0, 9.0])
    known = torch.ones(2, 4, dtype=torch.bool)
    known[1, 3] = False
    assert overlap(points, known, [1.0, 2.0, 60.0]) == [0.25, 0.5, 0.75]
    assert overlap(points[:1], known[:1], [1.0]) is None
    assert overlap(points, known & (torch.arange(2) == 0)[:, None], [1.0]) == [0.0]


def test_what_is_not_known_does_not_count():
    truth = Truth([view(0), view(1)], unmirror=True)
    truth.views[1].depth_hw[:4] = 0
    truth.views[1].depth_hw[4:6] = float("inf")
    estimate = estimate_geometry(Knowing(truth, unit=2.0), truth, (PIXELS, PIXELS))
    assert estimate.known_VQ[1].float().mean() == 0.25
    assert compare(estimate, [1.0])["scale"] == pytest.approx(2.0, rel=1e-4)
    assert isinstance(estimate, GeometryEstimate)


def test_a_small_random_vggt(data, released, tmp_path, capsys):
    output = tmp_path / "report"
    flags = [f"--vggt_model={released / 'vggt'}", f"--dataset_root={data}", f"--output_dir={output}"]
    assert main([*flags, "--image_size=[32, 48]", "--frames=2", "--device=cpu"]) == 0
    content = json.loads((output / "report.json").read_text())
    assert (content["views"], content["image_size"]) == (["wrist", "scene_0"], [32, 48])
    assert [row["frame"] for row in content["frames"]] == [0, 2]
    for row in content["frames"]:
        assert row["scale"] > 0
        assert len(row["overlap"]) == 3
        assert all(
            np.isfinite(row[name]).all() for name in ("point_cm", "point_one_scale_cm", "camera_cm", "camera_deg")
        )
    page = (output / "report.md").read_text()
    scale = np.median([row["scale"] for row in content["frames"]])
    assert f"--policy.landmark_scale={1 / scale:.4g}" in page
    assert "| scene_0 |" in page
    assert str(output / "report.md") in capsys.readouterr().out
    assert main([*flags, "--image_size=[32, 32]", "--frames=1", "--views=[scene_1]", "--device=cpu"]) == 0
    assert json.loads((output / "report.json").read_text())["frames"][0]["overlap"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--views=[wrist, front]"], ["--views=['wrist', 'front']", "scene_1"]),
        (["--frames=0"], ["--frames=0", "at least 1"]),
        (["--near_cm=[0]"], ["--near_cm=[0.0]", "positive"]),
        (["--image_size=[30, 32]"], ["image_size", "multiples of the patch size 8", "30"]),
        (["--vggt_model={released}/bare"], ["bare", "camera_head", "missing"]),
        (["--vggt_model={released}/da3"], ["Depth Anything 3", "--vggt_model"]),
        (["--vggt_model={released}/qwen3"], ["no VGGT", "--vggt_model"]),
        (["--vggt_model={released}/nothing"], ["nothing", "--vggt_model"]),
        (["--dataset_root={released}"], ["no LeRobot dataset", "--dataset_root"]),
        (["--output_dir={data}/meta/info.json"], ["is a file", "--output_dir"]),
    ],
)
def test_what_cannot_be_measured_is_said(data, released, tmp_path, capsys, flags, words):
    write_da3(released / "da3")
    usual = {"vggt_model": released / "vggt", "dataset_root": data, "output_dir": tmp_path / "report"}
    given = [flag.format(data=data, released=released) for flag in flags]
    usual = [f"--{name}={value}" for name, value in usual.items() if not any(name in flag for flag in given)]
    assert main([*usual, "--device=cpu", *([] if "image_size" in given[0] else ["--image_size=[32, 32]"]), *given]) == 1
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("key", ["observation.depth.scene_0", "observation.cameras.wrist.extrinsics"])
def test_data_without_depth_or_cameras_are_refused(released, tmp_path, capsys, key):
    root = write_geometry_dataset(tmp_path / "data", episodes=1, frames=1, drop=key)
    flags = [f"--vggt_model={released / 'vggt'}", f"--dataset_root={root}", f"--output_dir={tmp_path / 'report'}"]
    assert main(flags) == 1
    assert f"has no {key}" in capsys.readouterr().err
