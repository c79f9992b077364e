"""Where random scene cameras may be: what is refused, what is held out, and that LIBERO-Plus means the same."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from eval.robustness.libero_plus.perturbations.camera import SCENES, camera_pose
from eval.robustness.libero_plus.tasks import CameraView
from lerobot_atlasvla.libero.cameras.ranges import CameraPose, RandomCameraConfig, moved, orbit_of
from lerobot_atlasvla.libero.dataset_settings import CollectionError

TABLE = "libero_tabletop_manipulation"
POSITION, QUATERNION = SCENES[TABLE]
NOMINAL = CameraPose(np.array(POSITION), Rotation.from_quat(QUATERNION, scalar_first=True))


def config(**settings) -> RandomCameraConfig:
    return RandomCameraConfig(Path("unused"), **({"random_cameras": 2} | settings))


@pytest.mark.parametrize(
    ("view", "motion"),
    [
        (CameraView(60, 15, 100, 0, 0), {"azimuth": 60, "elevation": 15}),
        (CameraView(315, 0, 100, 0, 0), {"azimuth": -45}),
        (CameraView(0, 0, 180, 0, 0), {"distance": 180}),
        (CameraView(0, 0, 100, 6, 0), {"pan": -6}),
    ],
)
def test_motions_are_those_of_libero_plus(view, motion):
    theirs, ours = camera_pose(TABLE, view), moved(NOMINAL, **motion)
    np.testing.assert_allclose(ours.position, theirs.position, atol=3e-4)
    turned = Rotation.from_quat(theirs.quaternion, scalar_first=True) * ours.rotation.inv()
    assert np.degrees(turned.magnitude()) < 0.05


def test_the_orbit_is_what_was_asked_for():
    pose = moved(NOMINAL, azimuth=-100, elevation=12, distance=150, pan=9, tilt=-4, roll=3)
    np.testing.assert_allclose(orbit_of(pose, NOMINAL), [-100, 12, 150], atol=1e-6)


def test_poses_depend_on_the_seed_alone_and_fill_the_ranges():
    def poses(**settings) -> list[CameraPose]:
        rng = np.random.default_rng(3)
        return [config(**settings).draw(NOMINAL, rng, lambda pose: True) for _ in range(200)]

    settings = {"right": [0.0, 0.0], "up": [0.0, 0.0], "forward": [0.0, 0.0], "azimuth": [20.0, 40.0]}
    orbits = np.array([orbit_of(pose, NOMINAL) for pose in poses(**settings)])
    np.testing.assert_array_equal(orbits, [orbit_of(pose, NOMINAL) for pose in poses(**settings)])
    azimuths, _, distances = orbits.T
    assert 20 - 1e-6 <= azimuths.min() < 21
    assert 38 < azimuths.max() <= 40
    # A kind that is left out keeps what is nearest to LIBERO's own pose, and only that.
    left_out = np.isclose(azimuths, 20) & np.isclose(distances, 100)
    assert 0.2 < left_out.mean() < 0.45


@pytest.mark.parametrize(
    ("name", "held_out", "value"),
    [
        ("hold_out_azimuth", [30.0, 45.0], lambda orbit: abs(orbit[0])),
        ("hold_out_elevation", [5.0, 30.0], lambda orbit: orbit[1]),
        ("hold_out_distance", [110.0, 200.0], lambda orbit: orbit[2]),
    ],
)
def test_what_is_held_out_is_reached_by_no_motion(name, held_out, value):
    """Neither by its own flag nor by moving sideways, up or back."""

    def values(**settings) -> np.ndarray:
        rng = np.random.default_rng(0)
        poses = [config(**settings).draw(NOMINAL, rng, lambda pose: True) for _ in range(150)]
        return np.array([value(orbit_of(pose, NOMINAL)) for pose in poses])

    def inside(found: np.ndarray) -> np.ndarray:
        return (held_out[0] <= found) & (found <= held_out[1])

    own = name.removeprefix("hold_out_")
    still = {own: [100.0, 100.0] if own == "distance" else [0.0, 0.0]}
    assert inside(values()).any()
    assert inside(values(**still)).any(), "it can be reached by moving the camera along its axes as well"
    assert not inside(values(**{name: held_out})).any()
    assert not inside(values(**still, **{name: held_out})).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_cameras": 0}, r"--random_cameras=0 must be at least 1\."),
        ({"random_cameras": -3}, r"--random_cameras=-3 must be at least 1\."),
        ({"random_cameras": None, "pan": [0.0, 5.0]}, r"--pan=\[0.0, 5.0\] has no effect without --random_cameras\."),
        ({"azimuth": [40.0, -40.0]}, r"--azimuth=\[40.0, -40.0\] is reversed; .*'\[-40.0, 40.0\]'\."),
        ({"hold_out_azimuth": [45.0, 30.0]}, r"--hold_out_azimuth=\[45.0, 30.0\] is reversed"),
        ({"tilt": [1.0]}, r"--tilt=\[1.0\] must be two numbers"),
        ({"roll": [1.0, 2.0, 3.0]}, r"--roll=.* must be two numbers"),
        ({"up": [float("nan"), 1.0]}, r"--up=\[nan, 1.0\] must be two numbers"),
        ({"forward": [0.0, float("inf")]}, r"--forward=\[0.0, inf\] must be two numbers"),
        ({"distance": [0.0, 100.0]}, r"--distance=\[0.0, 100.0\] must lie within \[10, 1000\]\."),
        ({"elevation": [0.0, 91.0]}, r"--elevation=\[0.0, 91.0\] must lie within \[-90, 90\]\."),
        ({"hold_out_azimuth": [-45.0, -30.0]}, r"--hold_out_azimuth=.* must lie within \[0, 180\]\."),
        ({"kind_share": 1.1}, r"--kind_share=1.1 must lie in 0 \.\. 1\."),
        ({"kind_share": float("nan")}, r"--kind_share=nan must lie in 0 \.\. 1\."),
        (
            {"azimuth": [-40.0, -32.0], "hold_out_azimuth": [30.0, 45.0]},
            r"--hold_out_azimuth=\[30.0, 45.0\] leaves nothing of --azimuth=\[-40.0, -32.0\]; change one of them\.",
        ),
        ({"distance": [115.0, 200.0], "hold_out_distance": [100.0, 210.0]}, r"leaves nothing of --distance"),
    ],
)
def test_wrong_ranges_are_refused(settings, message):
    with pytest.raises(CollectionError, match=message):
        config(**settings).validate()


def test_default_ranges_are_accepted():
    config().validate()
    config(random_cameras=None).validate()


def test_ranges_without_any_pose_that_suits_are_told_in_one_sentence():
    with pytest.raises(CollectionError, match=r"finds no pose .* look away from the objects") as error:
        config().draw(NOMINAL, np.random.default_rng(0), lambda pose: False)
    assert str(error.value).count(". ") == 0
    assert "--azimuth, --elevation, --distance" in str(error.value)
    with pytest.raises(CollectionError, match=r"are held out \(--hold_out_azimuth=\[0.0, 170.0\]\)"):
        config(hold_out_azimuth=[0.0, 170.0]).draw(NOMINAL, np.random.default_rng(0), lambda pose: True)
