"""Views of a small scene: depth and cameras lead every pixel to where it is, and nothing is left moved."""

import zlib
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lerobot_atlasvla.libero.cameras.pinhole import project, unproject
from lerobot_atlasvla.libero.cameras.ranges import CameraPose, moved
from lerobot_atlasvla.libero.cameras.views import Viewer, restore, snapshot

PIXELS = 64
BASE = np.array([-0.6, 0.1, 0.3])
BALL = np.array([0.1, -0.15, 0.03])
SCENE = """<mujoco><visual><map znear="0.01"/><quality offsamples="0"/></visual><statistic extent="2"/>
  <worldbody><light pos="0 0 3" castshadow="false"/>
    <geom name="table" type="box" group="1" size="0.5 0.5 0.02" pos="0 0 -0.02" rgba=".5 .5 .5 1"/>
    <camera name="agentview" pos="0.66 0 0.9" xyaxes="0 1 0 -0.8 0 0.6" fovy="45"/>
    <body name="robot0_base" pos="-0.6 0.1 0.3" euler="0 0 90">
      <geom type="box" group="1" size="0.05 0.05 0.3" rgba=".2 .2 .2 1"/>
      <body pos="0 -0.6 0.1"><joint name="arm" type="slide" axis="0 1 0"/>
        <geom type="box" group="1" size="0.03 0.03 0.03" rgba=".2 .2 .2 1"/>
        <camera name="robot0_eye_in_hand" pos="0.1 0 0" xyaxes="0 1 0 -1 0 0" fovy="75"/></body></body>
    <body name="ball" pos="0.1 -0.15 0.03"><freejoint/>
      <geom type="sphere" group="1" size="0.03" rgba="1 0 0 1"/></body>
    <body name="cube" pos="-0.1 0.1 0.03"><freejoint/>
      <geom type="box" group="1" size="0.03 0.03 0.03" rgba="0 1 0 1"/></body>
  </worldbody></mujoco>"""


@pytest.fixture(scope="module")
def env():
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from robosuite.utils.binding_utils import MjRenderContextOffscreen, MjSim

    simulation = MjSim.from_xml_string(SCENE)
    context = MjRenderContextOffscreen(simulation, device_id=-1)
    context.vopt.geomgroup[:] = [0, 1, 0, 0, 0, 0]
    simulation.forward()
    robot = SimpleNamespace(robot_model=SimpleNamespace(root_body="robot0_base"))
    return SimpleNamespace(sim=simulation, env=SimpleNamespace(robots=[robot]))


@pytest.fixture
def viewer(env):
    env.sim.reset()
    env.sim.forward()
    return Viewer(env, PIXELS, depth_cell_px=1)


def to_base(point: np.ndarray) -> np.ndarray:
    return Rotation.from_euler("z", 90, degrees=True).inv().apply(point - BASE)


def test_the_fixed_camera_is_where_mujoco_has_it(viewer):
    extrinsics = viewer.render("agentview").extrinsics
    np.testing.assert_allclose(extrinsics[:3, 3], to_base(np.array([0.66, 0, 0.9])), atol=1e-6)
    turn = Rotation.from_euler("z", 90, degrees=True).inv()
    # OpenCV's axes: right, down, forward.
    for column, axis in enumerate(([0, 1, 0], [0.8, 0, -0.6], [-0.6, 0, -0.8])):
        np.testing.assert_allclose(extrinsics[:3, column], turn.apply(axis), atol=1e-6)


@pytest.mark.parametrize("motion", [{}, {"azimuth": 40, "elevation": 10, "pan": 5}, {"distance": 120, "roll": 10}])
def test_an_object_appears_where_its_position_is_projected(viewer, motion):
    view = viewer.render("agentview", moved(viewer.nominal, **motion))
    red = (view.image[..., 0] > 60) & (view.image[..., 1:].max(axis=-1) < 30)
    rows, columns = np.nonzero(red)
    column, row, depth = project(to_base(BALL)[None], view.intrinsics, view.extrinsics)[0]
    assert abs(columns.mean() + 0.5 - column) < 0.7
    assert abs(rows.mean() + 0.5 - row) < 0.7
    assert view.depth[red].min() == pytest.approx(depth - 0.03, abs=0.003)


def test_both_cameras_see_the_same_points(viewer):
    pose = moved(viewer.nominal, azimuth=-30, right=10, tilt=3)
    wrist, scene = viewer.render("robot0_eye_in_hand"), viewer.render("agentview", pose)
    points = unproject(wrist.depth, wrist.intrinsics, wrist.extrinsics, PIXELS).reshape(-1, 3)
    column, row, depth = project(points, scene.intrinsics, scene.extrinsics).T
    inside = (np.minimum(column, row) > 0) & (np.maximum(column, row) < PIXELS)
    seen = scene.depth[row[inside].astype(int), column[inside].astype(int)]
    both = np.abs(seen - depth[inside]) < 0.05
    assert both.sum() > 300
    assert np.median(np.abs(seen - depth[inside])[both]) < 0.01
    for view in (wrist, scene):
        table = unproject(view.depth, view.intrinsics, view.extrinsics, PIXELS)[..., 2] + BASE[2]
        assert np.isclose(table, 0, atol=0.002).mean() > 0.3, "the table is where it is to 2 mm"


def test_a_thing_shows_the_same_parts_wherever_it_is_and_from_anywhere(env, viewer):
    data = env.sim.data._data
    number = zlib.crc32(b"ball") % 2**24
    for motion, displaced, camera in (({}, 0.0, "agentview"), ({"azimuth": 40}, 0.1, "agentview")):
        data.qpos[1] = BALL[0] - displaced
        data.qpos[4:8] = Rotation.from_euler("x", 900 * displaced, degrees=True).as_quat(scalar_first=True)
        env.sim.forward()
        view = viewer.render(camera, moved(viewer.nominal, **motion), object_coordinates=True)
        red = (view.image[..., 0] > 60) & (view.image[..., 1:].max(axis=-1) < 30)
        assert red.sum() > 4
        ball = view.object_coordinates[..., 3] == number
        assert (ball == red).mean() > 0.998
        np.testing.assert_allclose(np.linalg.norm(view.object_coordinates[ball][:, :3], axis=-1), 0.03, atol=0.004)
        # The side that faces up is z for a ball that lies as it was made, and y for one that was turned by 90 degrees.
        assert view.object_coordinates[ball][:, 1 if displaced else 2].max() > 0.02
        table = (view.object_coordinates[..., 3] == zlib.crc32(b"world") % 2**24) & (view.depth < 5)
        assert np.isclose(view.object_coordinates[table][:, 2], 0, atol=0.004).mean() > 0.9
    assert viewer.render("agentview").object_coordinates is None


def test_cells_are_medians_of_the_pixels(env, viewer):
    full = viewer.render("agentview", object_coordinates=True)
    cells = Viewer(env, PIXELS, depth_cell_px=4).render("agentview", object_coordinates=True)
    assert cells.depth.shape == (16, 16)
    assert cells.depth[3, 5] == np.sort(full.depth[12:16, 20:24], axis=None)[7]
    for row, column in np.ndindex(16, 16):
        inside = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        same_depth = full.depth[inside] == cells.depth[row, column]
        assert cells.object_coordinates[row, column, 3] in full.object_coordinates[inside][same_depth][:, 3], (
            "what has the cell's depth"
        )


def test_an_earlier_moment_is_seen_again_to_the_byte(env, viewer):
    data = env.sim.data._data
    before = {name: viewer.render(name) for name in ("agentview", "robot0_eye_in_hand")}
    moment = snapshot(env.sim)
    data.qpos[:3] += 0.1
    env.sim.forward()
    assert not np.array_equal(viewer.render("agentview").image, before["agentview"].image)
    restore(env.sim, moment)
    for name, view in before.items():
        again = viewer.render(name)
        np.testing.assert_array_equal(again.image, view.image)
        np.testing.assert_array_equal(again.depth, view.depth)
        np.testing.assert_array_equal(again.extrinsics, view.extrinsics)


def test_a_stove_is_seen_as_it_was():
    """LIBERO shows that one is on by the color of a site, which is no part of the simulator's state."""
    model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><site rgba="1 0 0 0"/></worldbody></mujoco>')
    sim = SimpleNamespace(model=SimpleNamespace(_model=model), data=SimpleNamespace(_data=mujoco.MjData(model)))
    off = snapshot(sim)
    model.site_rgba[0, 3] = 1
    restore(sim, off)
    assert model.site_rgba[0].tolist() == [1, 0, 0, 0]


def test_a_camera_is_back_in_its_place_after_a_view(viewer):
    before = viewer.render("agentview")
    elsewhere = viewer.render("agentview", moved(viewer.nominal, azimuth=30))
    assert not np.array_equal(elsewhere.image, before.image)
    np.testing.assert_array_equal(viewer.render("agentview").image, before.image)
    unmoved = viewer.render("agentview", moved(viewer.nominal))
    np.testing.assert_array_equal(unmoved.image, before.image)


@pytest.mark.parametrize(
    ("pose", "suits"),
    [
        (lambda nominal: nominal, True),
        (lambda nominal: moved(nominal, azimuth=60), True),
        (lambda nominal: moved(nominal, pan=60), False),  # looks past the table
        (lambda nominal: moved(nominal, tilt=60), False),
        (lambda nominal: CameraPose(BASE + 0.1, nominal.rotation), False),  # beside the robot
        (lambda nominal: moved(nominal, azimuth=175, elevation=-53), False),  # below the table's height, behind it
        (lambda nominal: CameraPose(nominal.position * [1, 1, -1], Rotation.from_euler("y", 140, degrees=True)), False),
    ],
)
def test_poses_that_show_the_objects_suit(viewer, pose, suits):
    assert viewer.suits(pose(viewer.nominal)) is suits
