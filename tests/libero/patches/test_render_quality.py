"""The render quality acts on what robosuite really builds, and nothing else changes."""

import pytest


def test_a_quality_switches_off_what_it_says_and_nothing_else(monkeypatch):
    """The hook must act on the simulations that robosuite really builds, and leave LIBERO's own quality alone."""
    from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from robosuite.utils.binding_utils import MjSim

    scene = """<mujoco><asset><material name="m" reflectance="0.5"/></asset>
      <worldbody><light castshadow="true"/><body><geom size="0.1" material="m" mass="2"/></body></worldbody></mujoco>"""
    seen = {}
    for quality in ("default", "fast", "plain"):
        monkeypatch.setenv(ENV_RENDER_QUALITY, quality)
        model = MjSim.from_xml_string(scene).model
        samples = int(model.vis.quality.offsamples)
        seen[quality] = (model.mat_reflectance[0], bool(model.light_castshadow[0]), samples, model.body_mass[1])
    assert seen == {"default": (0.5, True, 4, 2.0), "fast": (0.0, False, 4, 2.0), "plain": (0.0, False, 0, 2.0)}


def test_an_unknown_quality_is_refused(monkeypatch):
    from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY
    from lerobot_atlasvla.libero.setup import prepare_libero

    monkeypatch.setenv(ENV_RENDER_QUALITY, "pretty")
    with pytest.raises(ValueError, match=r"ATLASVLA_LIBERO_RENDER_QUALITY=pretty is.*default, fast, plain"):
        prepare_libero()
