"""Light, background and added objects: which files a task needs of LIBERO-Plus's assets, and folders that lack some."""

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import read_catalog
from eval.robustness.libero_plus.own_assets.added_object import AddedObject
from eval.robustness.libero_plus.own_assets.folder import PlusAssets
from tests.eval.robustness.libero_plus.test_command import content, plus
from tests.eval.robustness.wheels import BOWL, plus_assets, plus_wheel

__all__ = ["plus"]
EVERYTHING = "--categories=[camera, layout, light, background, layout_add]"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return read_catalog(plus_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture
def assets(tmp_path) -> PlusAssets:
    return PlusAssets(plus_assets(tmp_path / "assets"))


def task(catalog, suffix):
    return next(task for task in catalog.tasks if task.name == f"{BOWL}_{suffix}")


@pytest.mark.parametrize(
    ("suffix", "scene", "floor", "wall"),
    [
        ("light_4", "lights/4.xml", "gray.png", "plaster.png"),
        ("table_1", "base.xml", "carpet.png", "plaster.png"),  # what the class does not say is its base's
        ("tb_12", "tb.xml", "carpet.png", "green.png"),
    ],
)
def test_the_package_says_which_files_a_scene_has(catalog, assets, suffix, scene, floor, wall):
    found = assets.arena(task(catalog, suffix), catalog)
    assert (found.scene, found.floor, found.wall) == (assets.folder / "scenes" / scene, floor, wall)


def test_the_kinds_of_objects_that_libero_does_not_have(catalog, assets):
    file = assets.folder / "new_objects/can/can.xml"
    assert assets.objects(task(catalog, "add_3"), catalog) == (AddedObject("can__2", file),)


@pytest.mark.parametrize(
    ("suffix", "file"),
    [
        ("light_4", "scenes/lights/4.xml"),
        ("light_4", "textures/gray.png"),
        ("light_4", "textures/wood.png"),
        ("tb_12", "textures/green.png"),
        ("add_3", "new_objects/can/can.xml"),
        ("add_3", "new_objects/can/can.obj"),
    ],
)
def test_a_missing_file_is_named(catalog, assets, suffix, file):
    (assets.folder / file).unlink()
    find = assets.objects if suffix == "add_3" else assets.arena
    with pytest.raises(EvalError) as caught:
        find(task(catalog, suffix), catalog)
    assert f"--plus_assets={assets.folder} lacks " in str(caught.value)
    assert f"{Path(file).name}, which {BOWL}_{suffix} needs" in str(caught.value)


def test_a_damaged_scene_is_named(catalog, assets):
    (assets.folder / "scenes/tb.xml").write_text("<mujoco>")
    with pytest.raises(EvalError, match=r"--plus_assets: .*scenes/tb.xml cannot be read"):
        assets.arena(task(catalog, "tb_12"), catalog)


def test_a_scene_that_the_package_does_not_know(tmp_path, assets):
    name = f"liberoplus/liberoplus/bddl_files/libero_spatial/{BOWL}_tb_12.bddl"
    other = read_catalog(plus_wheel(tmp_path, **{name: b"(define (problem Libero_Moon))"}))
    with pytest.raises(EvalError, match="does not say which files the scene libero_moon has: 'floor_style' is missing"):
        assets.arena(task(other, "tb_12"), other)


@pytest.mark.parametrize(("made", "lacking"), [((), "scenes and textures"), (("scenes",), "lacks textures")])
def test_another_folder_is_refused(plus, tmp_path, made, lacking):
    for part in made:
        (tmp_path / "other" / part).mkdir(parents=True)
    status, printed = plus(f"--plus_assets={tmp_path / 'other'}")
    assert status == 1
    assert lacking in printed.err
    assert not Path("out").exists()


def test_all_categories_are_run(plus, jobs, tmp_path):
    status, printed = plus(EVERYTHING, f"--plus_assets={plus_assets(tmp_path / 'assets')}")
    assert status == 0, printed.err
    tasks = {job.task.name: job.task for job in jobs}
    assert tasks[f"{BOWL}_light_4"].perturbation.arena.scene.name == "4.xml"
    assert tasks[f"{BOWL}_light_4"].built_for == tasks[f"{BOWL}_view_1_0_100_0_0_initstate_0"].built_for
    added = tasks[f"{BOWL}_add_3"]
    assert [kind.kind for kind in added.built_for.objects] == ["can__2"]
    assert added.built_for.states_file is not None
    found = content()
    # Both halves of layout are one category, as LIBERO-Plus has it.
    assert Counter({name: group["rollouts"] for name, group in found["categories"].items()}) == {
        "camera": 30,
        "layout": 4,
        "light": 2,
        "background": 4,
    }
    assert found["categories"]["layout"]["label"] == "layout"
    assert found["complete"]
    page = Path("out/report.md").read_text()
    assert "level only" not in page.split("## Published")[0].split("## Categories")[1].split("![")[0]
    assert "Light, background and added objects are of the folder" in page


def test_a_missing_file_is_found_before_anything_is_simulated(plus, jobs, tmp_path):
    folder = plus_assets(tmp_path / "assets")
    (folder / "textures/wood.png").unlink()
    status, printed = plus("--categories=[light]", f"--plus_assets={folder}")
    assert status == 1
    assert len(printed.err.strip().splitlines()) == 1
    assert f"lacks {folder}/scenes/lights/../../textures/wood.png, which" in printed.err
    assert (jobs, Path("out").exists()) == ([], False)


def test_the_report_of_added_objects_alone(plus, tmp_path):
    assert plus("--categories=[layout_add]", f"--plus_assets={plus_assets(tmp_path / 'assets')}")[0] == 0
    assert json.loads(Path("out/report.json").read_text())["categories"]["layout_add"]["label"] == (
        "layout (added objects only)"
    )
