"""Rendered states: the same whatever was rendered before, and related to the stored state as the record says."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lerobot_atlasvla.libero.demonstrations.episode import Attempt
from lerobot_atlasvla.libero.geometry_data.arm import Arm
from lerobot_atlasvla.libero.geometry_data.settings import GeometryConfig
from lerobot_atlasvla.libero.geometry_data.states import StateScene
from lerobot_atlasvla.libero.tasks import SPATIAL

TASK = 8
PIXELS = 32


@pytest.fixture(scope="module")
def scene():
    scene = StateScene("libero_spatial", TASK, PIXELS)
    yield scene
    scene.close()


def render(scene: StateScene, attempt: int, **settings) -> Attempt:
    values = {"sources": ["fixed"], "image_size": PIXELS, "states_per_episode": 3, "random_cameras": 1}
    return scene.render_episode(GeometryConfig(Path("unused"), **(values | settings)).job((SPATIAL, TASK), attempt))


def test_an_episode_depends_on_its_number_alone(scene):
    first, other, again = (render(scene, attempt).trajectory for attempt in (0, 1, 0))
    for name, views in first.views.items():
        assert not np.array_equal(views[0].image, other.views[name][0].image)
        for one, same in zip(views, again.views[name], strict=True):
            np.testing.assert_array_equal(one.image, same.image)
            np.testing.assert_array_equal(one.depth, same.depth)
            np.testing.assert_array_equal(one.extrinsics, same.extrinsics)
    np.testing.assert_array_equal(first.eef_pos, again.eef_pos)
    assert np.ptp(first.eef_pos, axis=0).max() > 0.02, "the arm is somewhere else in each state"
    assert len(scene.fixed_states()) == 50


def test_the_wrist_camera_is_where_the_state_and_the_record_put_it(scene):
    settings = {"sources": ["expert"], "every_steps": 3, "max_steps": 5, "posture_share": 1.0, "object_share": 1.0}
    attempt = render(scene, 2, **settings)
    episode = attempt.trajectory
    assert len(episode) == 3, "steps 0 and 3, and the last state"
    base, camera = (np.array(attempt.frames_of_reference[name]) for name in ("base_to_world", "wrist_camera_to_eef"))
    for position, quaternion, view in zip(episode.eef_pos, episode.eef_quat, episode.views["wrist"], strict=True):
        eef = np.eye(4)
        eef[:3, :3], eef[:3, 3] = Rotation.from_quat(quaternion).as_matrix(), position
        np.testing.assert_allclose(base @ view.extrinsics, eef @ camera, atol=1e-5)


def test_objects_and_arm_are_put_within_what_the_settings_say(scene):
    scene.env.reset()
    arm, rng = Arm(scene.env), np.random.default_rng(0)
    data, joints = scene.env.sim.data._data, arm._arm
    bodies = arm._bodies
    before = data.xpos[bodies].copy()
    arm.scatter(0.06, 0.10, rng)
    moved = data.xpos[bodies] - before
    assert 0.0 < np.abs(moved[:, :2]).max() <= 0.16
    assert np.ptp(moved[:, 0]) > 0.0, "each on its own"
    np.testing.assert_allclose(moved[:, 2], 0.0, atol=1e-6)
    places = []
    for _ in range(5):
        arm.reach(rng)
        places.append(data.site_xpos[arm._site].copy())
        arm.disturb(0.1, rng)
        assert (data.qpos[joints] >= arm._limits[0]).all()
        assert (data.qpos[joints] <= arm._limits[1]).all()
        assert data.site_xpos[arm._site, 2] >= arm._floor
    over = np.abs(np.array(places)[:, None, :2] - data.xpos[bodies][None, :, :2]).max(axis=-1).min(axis=1)
    assert np.median(over) < 0.1 + 0.02, "it reaches for places around objects"
