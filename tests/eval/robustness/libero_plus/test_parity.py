"""Our perturbations against LIBERO-Plus's own functions, whose results are in ``data`` (see its README)."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from eval.robustness.libero_plus.perturbations.camera import SCENES, camera_pose
from eval.robustness.libero_plus.perturbations.noise import corrupt, noise_rng
from eval.robustness.libero_plus.perturbations.robot import robot_qpos
from eval.robustness.libero_plus.tasks import CameraView
from lerobot_atlasvla.libero.tasks import SUITES
from tests.eval.robustness.libero_plus.pictures import picture

DATA = Path(__file__).parent / "data"
MOTION, GLASS = range(1, 11), range(41, 51)


def test_every_camera_task_has_the_pose_of_libero_plus():
    with np.load(DATA / "liberoplus_cameras.npz") as figures:
        views, poses = figures["views"], figures["poses_e4"] / 1e4
    assert np.bincount(views[:, 0]).tolist() == [376, 396, 408, 419]
    problems = list(SCENES)
    ours = [camera_pose(problems[scene], CameraView(*map(int, view))) for _, _, scene, *view in views]
    positions = np.array([pose.position for pose in ours])
    np.testing.assert_allclose(positions, poses[:, :3], rtol=0, atol=1e-3)
    turns = Rotation.from_quat([pose.quaternion for pose in ours], scalar_first=True)
    expected = Rotation.from_quat(poses[:, 3:], scalar_first=True)
    assert np.rad2deg((turns * expected.inv()).magnitude()).max() < 0.05


def test_base_tasks_are_those_of_hf_libero():
    """LIBERO-Plus's descriptions and initial states of the 40 base tasks have this digest."""
    package = importlib.util.find_spec("libero")
    assert package is not None
    root = Path(next(iter(package.submodule_search_locations or ()))) / "libero"
    digest = hashlib.sha256()
    for suite in SUITES:
        names = sorted(file.stem for file in (root / "bddl_files" / suite).glob("*.bddl"))
        assert len(names) == 10
        for name in names:
            digest.update((root / f"bddl_files/{suite}/{name}.bddl").read_bytes())
            digest.update((root / f"init_files/{suite}/{name}.pruned_init").read_bytes())
    assert digest.hexdigest() == "0ebab38d4a8ce99ba2a8535cd8249c7f6a1aafeb54ffa2c81f1876ee321b371c"


def test_poses_that_were_worked_out_by_hand():
    table = "libero_tabletop_manipulation"
    np.testing.assert_allclose(camera_pose(table, CameraView(60, 15)).position, [0.213, 0.369, 1.753], atol=1e-3)
    np.testing.assert_allclose(camera_pose(table, CameraView(scale_percent=180)).position, [1.186, 0, 2.259], atol=1e-3)


def test_every_posture_is_that_of_libero_plus():
    with np.load(DATA / "liberoplus_postures.npz") as figures:
        expected = figures["qpos_e8"] / 1e8
    np.testing.assert_allclose([robot_qpos(number) for number in range(1, 501)], expected, rtol=0, atol=1e-8)
    for number in (0, 501):
        with pytest.raises(ValueError, match="postures 1 to 500"):
            robot_qpos(number)


@pytest.mark.parametrize("noise", range(1, 51))
def test_noise_is_that_of_libero_plus_with_the_same_random_numbers(noise):
    with np.load(DATA / "liberoplus_noise.npz") as figures:
        expected = figures["pixels"][noise - 1].astype(int)
    # The wheel's glass is for 224 px, its fog for 256.
    image = picture(224 if noise in GLASS else 256)
    ours = corrupt(image, noise, np.random.RandomState(noise))[5::20, 5::20][:11, :11].astype(int)
    difference = np.abs(ours - expected).max()
    assert difference <= 2 if noise in MOTION else difference == 0
    assert np.abs(ours - image[5::20, 5::20][:11, :11]).max() > 5


@pytest.mark.parametrize("size", [64, 128, 360])
@pytest.mark.parametrize("noise", [10, 20, 30, 31, 40, 41, 47, 50])
def test_noise_at_other_sizes(size, noise):
    image = picture(size)
    before = image.copy()
    once, again = (corrupt(image, noise, noise_rng("task", 7, 3)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(image, before)
    assert (once.shape, once.dtype) == (image.shape, image.dtype)
    assert np.abs(once.astype(int) - image).mean() > 1


def _glass_as_written(image: np.ndarray, reach: int, rng: np.random.RandomState) -> np.ndarray:
    """The loop that ImageNet-C describes, with its swap that is a copy."""
    image = image.copy()
    for row in range(len(image) - reach, reach, -1):
        for column in range(len(image) - reach, reach, -1):
            right, down = rng.randint(-reach, reach, size=(2,))
            image[row, column] = image[row + down, column + right]
    return image


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_glass_copies_pixel_by_pixel_at_any_size(reach):
    from eval.robustness.libero_plus.perturbations.noise import _shuffled

    image = picture(48)
    expected = _glass_as_written(image, reach, np.random.RandomState(1))
    np.testing.assert_array_equal(_shuffled(image, reach, np.random.RandomState(1)), expected)


def test_noise_depends_on_task_seed_and_frame_only():
    drawn = {noise_rng(*of).uniform() for of in (("a", 1, 1), ("b", 1, 1), ("a", 2, 1), ("a", 1, 2), ("a", 1, 1))}
    assert len(drawn) == 4


@pytest.mark.parametrize("noise", [0, 51])
def test_a_noise_that_libero_plus_does_not_have(noise):
    with pytest.raises(ValueError, match="noises 1 to 50"):
        corrupt(picture(64), noise, np.random.RandomState(0))


def test_a_picture_that_is_not_square():
    with pytest.raises(ValueError, match="for square images, not 64 x 32 px"):
        corrupt(picture(64)[:32], 41, np.random.RandomState(0))
