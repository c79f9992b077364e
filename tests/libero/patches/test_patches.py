"""What makes evaluation faster, repeatable or shifted acts on LeRobot's own LIBERO environment, and on nothing else."""

import numpy as np
import pytest

from lerobot_atlasvla.libero.patches.camera_pose import ENV_CAMERA_SHIFT, CameraShift
from lerobot_atlasvla.libero.patches.deterministic_reset import ENV_DETERMINISTIC_RESET
from lerobot_atlasvla.libero.patches.frame_skipping import (
    ENV_RENDER_CAMERAS,
    ENV_RENDER_EVERY,
    fresh_image,
    render_cameras,
)
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL

PIXELS = 32
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
SEED = 7


@pytest.fixture
def build(monkeypatch):
    """Builds LeRobot's environment of a task, closed at the end."""
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from lerobot.envs.libero import LiberoEnv
    from libero.libero import benchmark

    for name in (ENV_CULL, ENV_DETERMINISTIC_RESET, ENV_RENDER_EVERY, ENV_RENDER_CAMERAS, ENV_CAMERA_SHIFT):
        monkeypatch.delenv(name, raising=False)
    environments = []

    def make(task_id: int = 0, **variables: str) -> LiberoEnv:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        suite = benchmark.get_benchmark_dict()["libero_spatial"]()
        environment = LiberoEnv(
            suite,
            task_id,
            "libero_spatial",
            obs_type="pixels_agent_pos",
            observation_width=PIXELS,
            observation_height=PIXELS,
            camera_name_mapping=dict(zip(CAMERAS, ("image", "wrist_image"), strict=True)),
        )
        environments.append(environment)
        return environment

    yield make
    for environment in environments:
        environment.close()


def episode(environment, state: int, steps: int) -> list[dict]:
    """Observations of a rollout with actions that depend on the step only; the first is that of the reset."""
    environment.init_state_id = state
    observation, _ = environment.reset(seed=SEED + state)
    observations = [observation]
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7)).astype(np.float32)
    for action in actions:
        observation, *_ = environment.step(action)
        observations.append(observation)
    return observations


def same_state(one: dict, other: dict) -> bool:
    robots = (one["robot_state"], other["robot_state"])
    return all(
        np.array_equal(robots[0][part][name], robots[1][part][name]) for part in robots[0] for name in robots[0][part]
    )


def same_frames(one: dict, other: dict) -> bool:
    return all(np.array_equal(one["pixels"][name], other["pixels"][name]) for name in one["pixels"])


@pytest.mark.slow
def test_skipping_changes_no_frame_that_is_used_and_no_state(build):
    """The check behind fast evaluation: what the policy sees is equal, pixel for pixel, and the rest isn't rendered."""
    stock = episode(build(), 3, 9)
    taken = episode(build(**{ENV_RENDER_EVERY: "4", ENV_CULL: "1"}), 3, 9)
    assert all(same_state(one, other) for one, other in zip(stock, taken, strict=True))
    looked_at = [same_frames(one, other) for one, other in zip(stock, taken, strict=True)]
    assert [index for index, same in enumerate(looked_at) if same] == [0, 4, 8]
    assert same_frames(taken[5], taken[4]), "in between, the last frame is repeated"


def test_skipping_saves_renderings(build, monkeypatch):
    from robosuite.utils.binding_utils import MjRenderContext

    rendered = []
    monkeypatch.setattr(
        MjRenderContext, "render", lambda self, width, height, camera_id=None, segmentation=False: rendered.append(1)
    )
    environment = build(**{ENV_RENDER_EVERY: "4"})
    episode(environment, 0, 9)
    assert len(rendered) == 2 * 3, "two cameras at steps 0, 4 and 8; none while building and settling"


@pytest.mark.slow
def test_cameras_that_nobody_looks_through_are_black_and_not_rendered(build, monkeypatch):
    environment = build()
    stock = episode(environment, 0, 1)
    for words, black in (("robot0_eye_in_hand", ["image"]), ("none", ["image", "wrist_image"])):
        environment = build(**{ENV_RENDER_CAMERAS: words})
        seen = episode(environment, 0, 1)
        for one, other in zip(stock, seen, strict=True):
            assert same_state(one, other)
            assert [name for name, picture in other["pixels"].items() if not picture.any()] == black
        # For a video it is rendered all the same.
        assert fresh_image(environment, "agentview", PIXELS).any()


def test_unknown_cameras_are_refused(monkeypatch):
    monkeypatch.setenv(ENV_RENDER_CAMERAS, "agentview,frontview")
    with pytest.raises(ValueError, match=r"frontview; allowed: agentview, robot0_eye_in_hand.*none"):
        render_cameras()


def test_a_fresh_image_is_of_this_moment(build):
    environment = build(**{ENV_RENDER_EVERY: "100"})
    first = episode(environment, 0, 0)[0]["pixels"]["image"]
    upright = fresh_image(environment, "agentview", PIXELS)
    # The observation was taken a few physics steps earlier, at rest.
    assert np.abs(upright.astype(int) - first[::-1, ::-1]).mean() < 1
    for _ in range(15):
        environment.step(np.array([1, 0, 0, 0, 0, 0, -1], np.float32))
    assert np.abs(fresh_image(environment, "agentview", PIXELS).astype(int) - upright).mean() > 1


@pytest.mark.slow
def test_a_rollout_depends_on_earlier_ones_in_stock_libero_only(build):
    """If the first half fails LIBERO was mended upstream, and repeatable.py can go."""
    same = {}
    for repeatable in ("0", "1"):
        environment = build(task_id=4, **{ENV_DETERMINISTIC_RESET: repeatable})  # with a drawer
        fresh = episode(environment, 5, 2)
        again = episode(environment, 5, 2)
        same[repeatable] = all(
            same_state(one, other) and same_frames(one, other) for one, other in zip(fresh, again, strict=True)
        )
    assert same == {"0": False, "1": True}


@pytest.mark.parametrize(
    ("shift", "expected_move", "expected_right", "expected_up"),
    [
        ({"right_cm": 10}, "right", None, None),
        ({"up_cm": 10}, "up", None, None),
        ({"forward_cm": 10}, "forward", None, None),
        ({"pan_deg": 10}, None, np.tan(np.deg2rad(10)), 0.0),
        ({"tilt_deg": 10}, None, 0.0, np.tan(np.deg2rad(10))),
    ],
)
def test_a_level_camera_moves_and_turns_as_its_operator_would_say(shift, expected_move, expected_right, expected_up):
    """A camera that looks along world +y from the origin: its right is +x, its up +z."""
    import mujoco

    from lerobot_atlasvla.libero.patches.camera_pose import move_camera

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><camera name="agentview" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>'
    )
    move_camera(model, CameraShift(**shift))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    moves = {None: [0, 0, 0], "right": [0.1, 0, 0], "up": [0, 0, 0.1], "forward": [0, 0.1, 0]}
    np.testing.assert_allclose(data.cam_xpos[0], moves[expected_move], atol=1e-12)
    forward = -data.cam_xmat[0].reshape(3, 3)[:, 2]
    np.testing.assert_allclose(forward[0] / forward[1], expected_right or 0.0, atol=1e-9)
    np.testing.assert_allclose(forward[2] / forward[1], expected_up or 0.0, atol=1e-9)


def test_an_orbit_is_about_a_point_of_the_world_and_that_of_random_cameras():
    import mujoco
    from scipy.spatial.transform import Rotation

    from lerobot_atlasvla.libero.cameras.ranges import CameraPose, moved
    from lerobot_atlasvla.libero.patches.camera_pose import move_camera

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body pos="0.2 0 0.5"><body pos="0 0.1 0.3">'
        '<geom size="0.01"/><camera name="agentview" pos="0.8 -0.1 0.6" xyaxes="0 1 0 -0.6 0 0.8"/>'
        "</body></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    nominal = CameraPose(data.cam_xpos[0].copy(), Rotation.from_matrix(data.cam_xmat[0].reshape(3, 3)))
    move_camera(model, CameraShift(pan_deg=7, azimuth_deg=90, elevation_deg=-5, distance_percent=20))
    mujoco.mj_forward(model, data)
    pose = moved(nominal, azimuth=90, elevation=-5, distance=120, pan=7)
    np.testing.assert_allclose(data.cam_xpos[0], pose.position, atol=1e-9)
    np.testing.assert_allclose(data.cam_xmat[0].reshape(3, 3), pose.rotation.as_matrix(), atol=1e-9)
    # A quarter around (0, 0, 0.8) leads from the front (+x) to the left (+y), five degrees lower and farther away.
    turned = np.deg2rad(-5)
    x, z = 1.0 * np.cos(turned) - 0.6 * np.sin(turned), 1.0 * np.sin(turned) + 0.6 * np.cos(turned)
    np.testing.assert_allclose(data.cam_xpos[0], [0, 1.2 * x, 0.8 + 1.2 * z], atol=1e-9)


def test_roll_turns_the_image_and_not_the_line_of_sight():
    import mujoco

    from lerobot_atlasvla.libero.patches.camera_pose import move_camera

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><camera name="agentview" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>'
    )
    move_camera(model, CameraShift(roll_deg=90))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    right, up, backward = data.cam_xmat[0].reshape(3, 3).T
    np.testing.assert_allclose(backward, [0, -1, 0], atol=1e-9)
    np.testing.assert_allclose(up, [1, 0, 0], atol=1e-9, err_msg="clockwise: the top of the camera leans to the right")
    np.testing.assert_allclose(right, [0, 0, -1], atol=1e-9)


@pytest.mark.slow
def test_a_camera_shift_changes_the_scene_view_only(build):
    stock = episode(build(), 0, 0)[0]
    shifted = episode(build(**{ENV_CAMERA_SHIFT: CameraShift(right_cm=10).to_env()}), 0, 0)[0]
    assert same_state(stock, shifted)
    assert np.array_equal(stock["pixels"]["wrist_image"], shifted["pixels"]["wrist_image"])
    assert not np.array_equal(stock["pixels"]["image"], shifted["pixels"]["image"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENV_CULL, "yes"),
        (ENV_DETERMINISTIC_RESET, "true"),
        (ENV_RENDER_EVERY, "0"),
        (ENV_RENDER_EVERY, "ten"),
        (ENV_CAMERA_SHIFT, '{"left_cm": 3}'),
        (ENV_CAMERA_SHIFT, '{"pan_deg": "far"}'),
        (ENV_CAMERA_SHIFT, "5"),
    ],
)
def test_values_that_mean_nothing_are_refused_before_anything_is_built(name, value, monkeypatch):
    from lerobot_atlasvla.libero.setup import prepare_libero

    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        prepare_libero()
