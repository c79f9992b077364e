"""Which tasks are run: stratified fractions that contain one another, and requests that can't be met."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import Catalog, read_catalog
from eval.robustness.libero_plus.selection import Selection
from eval.robustness.libero_plus.tasks import ALL_CATEGORIES, CATEGORIES, NEEDS_ASSETS
from tests.eval.robustness.wheels import BOWL, DRAWER, plus_wheel

ALL = Selection(["libero_spatial"], CATEGORIES, levels=None, task_names=None, fraction=1.0, seed=0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return read_catalog(plus_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def graded(catalog) -> Catalog:
    tasks = tuple(replace(task, level=1 + task.number % 2) for task in catalog.tasks)
    return Catalog(catalog.data, tasks, classification_sha256="0")


def test_everything_that_libero_has_the_assets_for(catalog):
    found = ALL.choose(catalog)
    assert Counter(task.category for task in found) == {
        "camera": 30,
        "robot": 4,
        "language": 4,
        "noise": 6,
        "layout": 2,
    }
    assert [task.number for task in found] == sorted(task.number for task in found)


def test_a_fraction_is_spread_over_the_base_tasks(catalog):
    found = replace(ALL, categories=["camera"], fraction=0.3).choose(catalog)
    assert Counter(task.base for task in found) == {BOWL: 6, DRAWER: 3}


def test_a_larger_fraction_contains_a_smaller_one(catalog):
    parts = [set(replace(ALL, fraction=fraction).choose(catalog)) for fraction in (0.02, 0.1, 0.33, 0.7, 1.0)]
    assert all(small < large for small, large in pairwise(parts))
    assert Counter(task.category for task in parts[0]) == dict.fromkeys(CATEGORIES, 1)


def test_a_fraction_depends_on_the_seed_and_not_on_what_else_is_asked_for(catalog):
    wanted = replace(ALL, categories=["camera"], fraction=0.2)
    assert wanted.choose(catalog) == wanted.choose(catalog)
    assert wanted.choose(catalog) != replace(wanted, seed=1).choose(catalog)
    among_others = replace(wanted, categories=["noise", "camera"], suites=["libero_10", "libero_spatial"])
    chosen = [t for t in among_others.choose(catalog) if (t.suite, t.category) == ("libero_spatial", "camera")]
    assert chosen == wanted.choose(catalog)


def test_levels(graded):
    found = replace(ALL, levels=[2]).choose(graded)
    assert {task.level for task in found} == {2}
    assert 0 < len(found) < len(ALL.choose(graded))


def test_with_libero_plus_own_assets_everything_can_be_run(catalog):
    found = replace(ALL, categories=ALL_CATEGORIES, own_assets=True).choose(catalog)
    assert Counter(task.category for task in found if task.category in NEEDS_ASSETS) == {
        "light": 2,
        "background": 4,
        "layout_add": 2,
    }
    (named,) = replace(ALL, categories=["light"], task_names=[f"{BOWL}_light_4"], own_assets=True).choose(catalog)
    assert named.name == f"{BOWL}_light_4"


def test_tasks_of_one_base_task(catalog):
    of_drawer = [task for task in ALL.choose(catalog) if task.base == DRAWER]
    assert replace(ALL, base_tasks=[DRAWER]).choose(catalog) == of_drawer
    assert 0 < len(of_drawer) < len(ALL.choose(catalog))
    camera = replace(ALL, categories=["camera"], base_tasks=[DRAWER])
    assert set(replace(camera, fraction=0.5).choose(catalog)) < set(camera.choose(catalog))


def test_named_tasks(catalog):
    names = [f"{DRAWER}_level1_sample2", f"{BOWL}_view_3_0_100_0_0_initstate_0"]
    assert [task.name for task in replace(ALL, task_names=names).choose(catalog)] == names[::-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": ["libero_90"]}, "--suites names 'libero_90'; LIBERO-Plus has libero_spatial"),
        ({"suites": []}, "--suites=.* must name at least one"),
        ({"categories": ["camera", "camera"]}, "--categories=.* must name at least one, and none twice"),
        ({"categories": ["wind"]}, "--categories names 'wind'; allowed: camera, robot"),
        ({"categories": ["light"]}, "--categories names 'light', which needs .*: give their folder as --plus_assets"),
        ({"categories": ["background"]}, "which needs LIBERO-Plus's own assets, scenes with other tables"),
        ({"categories": ["layout_add"]}, "which needs LIBERO-Plus's own assets, objects that LIBERO does not have"),
        ({"levels": [6]}, "--levels names 6; LIBERO-Plus has the levels 1 to 5"),
        ({"levels": [1]}, "--levels=.1. needs the levels, .* --task_classification="),
        ({"fraction": 0.0}, "--fraction=0.0 must lie above 0"),
        ({"fraction": 1.5}, "--fraction=1.5 must lie above 0 and be at most 1"),
        ({"fraction": float("nan")}, "--fraction=nan must lie above 0"),
        ({"seed": -1}, "--selection_seed=-1 must be at least 0"),
        ({"task_names": ["x"], "fraction": 0.5}, "--task_names and --fraction exclude each other"),
        ({"task_names": [f"{BOWL}_view_3_0_100_0_0_initstate_1"]}, "did you mean .*initstate"),
        (
            {"task_names": [f"{BOWL}_light_4"]},
            "which needs .*, scenes with other lamps: give their folder as --plus_assets",
        ),
        (
            {"task_names": [f"{BOWL}_view_3_0_100_0_0_initstate_0"], "categories": ["noise", "robot"]},
            "of category camera, but --categories=.'noise', 'robot'.",
        ),
        ({"suites": ["libero_10"], "categories": ["noise"]}, "leave no task"),
        ({"base_tasks": ["bowl"]}, f"--base_tasks names 'bowl'; --suites=.'libero_spatial'. have .*{BOWL}"),
        ({"base_tasks": [BOWL, BOWL]}, "--base_tasks=.* must name at least one, and none twice"),
        ({"base_tasks": [BOWL], "task_names": ["x"]}, "--task_names and --base_tasks exclude each other"),
    ],
)
def test_what_cannot_be_run_is_refused(catalog, changes, message):
    with pytest.raises(EvalError, match=message):
        replace(ALL, **changes).choose(catalog)
