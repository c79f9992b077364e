"""Scenes and objects of a folder like LIBERO-Plus's own assets, in the simulator; the folder is made up."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.robustness.libero_plus.own_assets.added_object import AddedObject
from eval.robustness.libero_plus.own_assets.arena import Arena
from eval.robustness.libero_plus.perturbations.perturbation import PlusPerturbation
from eval.rollout.experts import without_cameras

STOVE = 7
# As LIBERO-Plus's files have it: the body "object" at the top.
CAN = """<mujoco model="can"><worldbody><body name="object">
<geom type="cylinder" size="0.02 0.03" group="0" density="500"/>
<geom type="cylinder" size="0.02 0.03" group="1" contype="0" conaffinity="0" rgba="1 0 0 1"/>
<site name="bottom_site" pos="0 0 -0.03" rgba="0 0 0 0"/>
<site name="top_site" pos="0 0 0.03" rgba="0 0 0 0"/>
<site name="horizontal_radius_site" pos="0.02 0.02 0" rgba="0 0 0 0"/>
</body></worldbody></mujoco>"""


@pytest.fixture
def arena(suite, tmp_path) -> Arena:
    """LIBERO's table in a darker light, on a red floor between green walls."""
    from libero.libero import get_assets_path

    own = Path(get_assets_path(), "scenes/libero_tabletop_base_style.xml")
    text = re.sub(r'diffuse="[^"]*"', 'diffuse=".1 .2 .3"', own.read_text())
    scene = tmp_path / "scenes/lights/dark.xml"
    scene.parent.mkdir(parents=True)
    scene.write_text(text.replace("../textures/", "../../textures/"))
    textures = tmp_path / "textures"
    textures.mkdir()
    for file in set(re.findall(r"\.\./textures/([^\"]+)", text)):
        (textures / file).symlink_to(own.parent.parent / "textures" / file)
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        Image.new("RGB", (8, 8), color).save(textures / f"{name}.png")
    return Arena(scene, "red.png", "green.png")


def reset(control, arena: Arena | None):
    """Reset the environment as a rollout on this arena would."""
    PlusPerturbation("task", arena=arena).prepare(SimpleNamespace(_ensure_env=lambda: None, _env=control))
    control.seed(0)
    control.reset()
    return control.sim.model._model


def colors(model) -> dict[str, np.ndarray]:
    """The first texel of floor and wall."""
    found = {}
    for name in ("texplane", "tex-wall"):
        start = model.texture(name).adr[0]
        found[name] = model.tex_data[start : start + 3].tolist()
    return found


def test_lamps_and_textures_change_and_change_back(suite, arena):
    with without_cameras(suite.get_task(STOVE)) as control:
        control.reset()
        own = control.sim.model._model
        before = own.light_diffuse.copy(), colors(own), own.nq
        changed = reset(control, arena)
        np.testing.assert_allclose(changed.light_diffuse[: len(before[0])], [[0.1, 0.2, 0.3]] * len(before[0]))
        assert colors(changed) == {"texplane": [255, 0, 0], "tex-wall": [0, 255, 0]}
        assert changed.nq == before[2]
        again = reset(control, None)
        np.testing.assert_array_equal(again.light_diffuse, before[0])
        assert colors(again) == before[1]


def test_an_added_object_stands_in_the_scene(suite, tmp_path):
    from libero.libero import get_libero_path

    task = suite.get_task(STOVE)
    own = Path(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file).read_text()
    text = re.sub(r"\(:objects", "(:objects\n    can_1 - can__2", own)
    text = re.sub(r"\(:init", "(:init\n    (On can_1 main_table_next_to_plate_region)", text)
    (tmp_path / "task.bddl").write_text(text)
    (tmp_path / "can.xml").write_text(CAN)
    AddedObject("can__2", tmp_path / "can.xml").register()
    described = SimpleNamespace(problem_folder=tmp_path, bddl_file="task.bddl")
    with without_cameras(described) as control:
        control.seed(0)
        control.reset()
        for _ in range(10):
            control.step([0, 0, 0, 0, 0, 0, -1])
        body = control.env.obj_body_id["can_1"]
        x, y, z = control.sim.data.body_xpos[body]
        assert (x, y) == pytest.approx((0.01, 0.31), abs=0.05)
        assert 0.9 < z < 1.0
