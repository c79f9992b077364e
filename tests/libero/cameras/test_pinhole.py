"""The convention of stored pictures: projecting undoes unprojecting, and cells keep depths that something has."""

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_atlasvla.libero.cameras.pinhole import cell_medians, extrinsics_of, intrinsics_of, project, unproject

SIZE = 8


def test_projecting_undoes_unprojecting():
    rng = np.random.default_rng(0)
    rotation, base = Rotation.random(random_state=1).as_matrix(), Rotation.random(random_state=2).as_matrix()
    extrinsics = extrinsics_of(rng.normal(size=3), rotation, rng.normal(size=3), base)
    intrinsics = intrinsics_of(45.0, SIZE)
    depth = rng.uniform(0.5, 2, (SIZE // 2, SIZE // 2))
    points = unproject(depth, intrinsics, extrinsics, SIZE)
    seen = project(points.reshape(-1, 3), intrinsics, extrinsics).reshape(SIZE // 2, SIZE // 2, 3)
    np.testing.assert_allclose(seen[..., 2], depth, atol=1e-5)
    np.testing.assert_allclose(seen[1, 2, :2], [5, 3], atol=1e-4, err_msg="the center of the cell, column first")


def test_the_mirror_is_in_the_intrinsics():
    intrinsics = intrinsics_of(90.0, SIZE)
    np.testing.assert_allclose(intrinsics, [[-4, 0, 4], [0, 4, 4], [0, 0, 1]], atol=1e-6)
    extrinsics = extrinsics_of(np.zeros(3), np.eye(3), np.zeros(3), np.eye(3))
    assert np.linalg.det(extrinsics[:3, :3]) > 0
    # MuJoCo's camera looks along its -z, so this point is in front of it, to its right and above.
    column, row, depth = project(np.array([[0.5, 0.25, -1.0]]), intrinsics, extrinsics)[0]
    np.testing.assert_allclose([column, row, depth], [4 - 2, 4 - 1, 1])


def test_cells_keep_a_depth_that_something_has():
    depth = np.array([[1, 1, 5, 5], [2, 2, 5, 5]], dtype=np.float32)
    medians, pixels = cell_medians(depth, 2)
    np.testing.assert_array_equal(medians, [[1, 5]])
    np.testing.assert_array_equal(depth.ravel()[pixels], medians)
    np.testing.assert_array_equal(cell_medians(depth, 1)[0], depth)
    assert medians.dtype == np.float32
