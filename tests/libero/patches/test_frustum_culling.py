"""Culling leaves every pixel as it was, mirrors included."""

import numpy as np
import pytest

from lerobot_atlasvla.libero.patches import frustum_culling

PIXELS = 48
CAMERAS = 6


@pytest.fixture(scope="module")
def render():
    """Renders a camera of a random scene with and without culling; returns both and the share of geoms left out."""
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from robosuite.utils.binding_utils import MjRenderContextOffscreen, MjSim

    simulation = MjSim.from_xml_string(random_scene())
    MjRenderContextOffscreen(simulation, device_id=-1)
    simulation.forward()
    model, data = simulation.model._model, simulation.data._data

    def both(camera: int, monkeypatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pictures = []
        for switch in ("0", "1"):
            monkeypatch.setenv(frustum_culling.ENV_CULL, switch)
            pictures.append(simulation.render(camera_name=f"camera{camera}", width=PIXELS, height=PIXELS))
        groups = np.array([1, 1, 1, 0, 0, 0])
        return *pictures, frustum_culling.out_of_sight(model, data, camera, groups)

    return both


def random_scene() -> str:
    """Colored boxes, balls and pegs around two mirrors, seen by cameras in their midst."""
    random = np.random.default_rng(0)

    def vector(low: float, high: float, size: int = 3) -> str:
        return " ".join(f"{value:.3f}" for value in random.uniform(low, high, size))

    things = "".join(
        f'<geom type="{kind}" size="{vector(0.03, 0.12)}" pos="{vector(-1, 1)}" euler="{vector(0, 180)}" '
        f'rgba="{vector(0, 1)} 1"/>'
        for kind in ("box", "sphere", "capsule", "cylinder", "ellipsoid")
        for _ in range(8)
    )
    cameras = "".join(
        f'<camera name="camera{index}" pos="{vector(-0.8, 0.8)}" euler="{vector(-60, 60)}" fovy="50"/>'
        for index in range(CAMERAS)
    )
    return f"""<mujoco><compiler angle="degree"/><visual><quality offsamples="4"/></visual>
      <asset><material name="mirror" reflectance="0.8"/></asset>
      <worldbody><light pos="0 0 3" castshadow="false"/>
        <geom type="box" size="0.5 0.4 0.02" pos="0 0 -0.9" euler="5 10 0" material="mirror"/>
        <geom type="box" size="0.3 0.3 0.02" pos="0.9 0 0" euler="0 -80 0" material="mirror"/>
        {things}{cameras}</worldbody></mujoco>"""


@pytest.mark.parametrize("camera", range(CAMERAS))
def test_no_pixel_changes_and_something_is_left_out(render, camera, monkeypatch):
    stock, culled, hidden = render(camera, monkeypatch)
    assert len(np.unique(stock)) > 10, "the picture shows something"
    assert np.array_equal(stock, culled)
    assert 0.2 < hidden.mean() < 1


def test_mirrors_matter(render, monkeypatch):
    """Without looking into mirrors, what is seen only there would vanish: the scene above can tell."""
    monkeypatch.setattr(frustum_culling, "_mirrors", lambda *_: [])
    changed = [not np.array_equal(*render(camera, monkeypatch)[:2]) for camera in range(CAMERAS)]
    assert any(changed)


def test_nothing_is_left_out_where_lights_cast_shadows():
    """A thing out of sight may throw a shadow into the picture."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(random_scene().replace('castshadow="false"', ""))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert not frustum_culling.out_of_sight(model, data, 0, np.ones(6)).any()


def test_the_next_picture_shows_everything_again(render, monkeypatch):
    """What one camera does not see must not be missing from another one's picture."""
    before, _, hidden = render(1, monkeypatch)
    _, _, hidden_from_first = render(0, monkeypatch)
    assert (hidden_from_first & ~hidden).any(), "the first camera leaves out what the second one sees"
    after, _, _ = render(1, monkeypatch)
    assert np.array_equal(before, after)
