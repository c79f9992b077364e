"""Displaced objects: how far they really move, what a vector depends on, and what is refused."""

import json

import numpy as np
import pytest

from lerobot_atlasvla.libero.demonstrations.collect import main as collect_main
from lerobot_atlasvla.libero.patches import displacement as displace_module
from lerobot_atlasvla.libero.patches.displacement import (
    ENV_DISPLACE_CM,
    DisplacementError,
    check_displace_cm,
    displace,
    displace_cm_from_env,
    displacement_cm_of,
    displacement_rng,
)

LIMIT_CM = 8.0
PIXELS = 32
CABINET, STOVE = "wooden_cabinet_1", "flat_stove_1"
TABLE_TASK, DRAWER_TASK, STOVE_TASK, CABINET_TASK = 2, 4, 7, 9
COOKIE_BOX_TASK = 3  # the other bowl stands on the cabinet
# The fixtures that move along: those with a bowl in or on them.
CARRIERS = {TABLE_TASK: [], DRAWER_TASK: [CABINET], STOVE_TASK: [CABINET, STOVE], CABINET_TASK: [CABINET, STOVE]}
SETTLE_CM = 0.5
"""How far things may get while they settle."""


@pytest.fixture(scope="module")
def environments():
    """Those of all tests, by what they were made with: a reset starts anew."""
    made = {}
    yield made
    for environment in made.values():
        environment.close()


@pytest.fixture
def build(monkeypatch, environments):
    """Builds LeRobot's environment of a task on the stand-in scene, or returns the one that there is."""
    from lerobot_atlasvla.libero.setup import prepare_libero

    for name in (ENV_DISPLACE_CM, "ATLASVLA_LIBERO_DETERMINISTIC_RESET", "ATLASVLA_LIBERO_CAMERA_SHIFT"):
        monkeypatch.delenv(name, raising=False)
    # Nothing here looks at a picture.
    monkeypatch.setenv("ATLASVLA_LIBERO_RENDER_EVERY", "1000")
    prepare_libero()
    from lerobot.envs.libero import LiberoEnv
    from libero.libero import benchmark

    suite = benchmark.get_benchmark_dict()["libero_spatial"]()

    def make(task_id: int, number: int = 0, **arguments) -> LiberoEnv:
        made_with = (task_id, number, *arguments.items())
        if made_with not in environments:
            environments[made_with] = LiberoEnv(
                suite,
                task_id,
                "libero_spatial",
                obs_type="pixels_agent_pos",
                observation_width=PIXELS,
                observation_height=PIXELS,
                **arguments,
            )
        return environments[made_with]

    return make


def positions(environment) -> dict[str, np.ndarray]:
    """Of every object and fixture by name, (3,), m."""
    control = environment._env
    return {name: control.sim.data.body_xpos[body].copy() for name, body in control.env.obj_body_id.items()}


def placed(environment, state: int, seed: int, monkeypatch, limit_cm: float) -> dict[str, np.ndarray]:
    """Positions after a reset, objects settled."""
    monkeypatch.setenv(ENV_DISPLACE_CM, str(limit_cm))
    environment.init_state_id = state
    environment.reset(seed=seed)
    return positions(environment)


@pytest.mark.parametrize(
    "task_id", [TABLE_TASK, *(pytest.param(task, marks=pytest.mark.slow) for task in CARRIERS if task != TABLE_TASK)]
)
def test_everything_loose_and_what_carries_it_moves_by_the_vector(build, monkeypatch, task_id):
    environment = build(task_id)
    # Twice: a reset must not add to the displacement of the one before. Without the switch that makes rollouts
    # repeatable, LIBERO would put the fixtures elsewhere in an undisplaced reset.
    monkeypatch.setenv("ATLASVLA_LIBERO_DETERMINISTIC_RESET", "1")
    stock = placed(environment, 1, 5, monkeypatch, 0)
    assert displacement_cm_of(environment) is None
    vectors = []
    for _ in range(2):
        displaced = placed(environment, 1, 5, monkeypatch, LIMIT_CM)
        vector = displacement_cm_of(environment)
        assert vector is not None
        assert 0 < np.abs(vector).max() <= LIMIT_CM
        vectors.append(vector)
        for name, position in displaced.items():
            loose = name in environment._env.env.objects_dict
            expected = vector if loose or name in CARRIERS[task_id] else (0.0, 0.0)
            moved = 100 * (position - stock[name])
            np.testing.assert_allclose(moved, [*expected, 0.0], atol=SETTLE_CM, err_msg=name)
    assert vectors[0] == vectors[1]


def test_soft_resets_do_not_add_up(build, monkeypatch):
    environment = build(DRAWER_TASK, hard_reset=False)
    first = placed(environment, 1, 5, monkeypatch, LIMIT_CM)
    again = placed(environment, 1, 5, monkeypatch, LIMIT_CM)
    for name, position in again.items():
        np.testing.assert_allclose(position, first[name], atol=0.005, err_msg=name)


@pytest.mark.slow
def test_a_vector_depends_on_state_and_seed_only(build, monkeypatch):
    def vector(environment, state: int, seed: int) -> tuple[float, float] | None:
        placed(environment, state, seed, monkeypatch, LIMIT_CM)
        return displacement_cm_of(environment)

    first, second = build(DRAWER_TASK), build(DRAWER_TASK, number=1)
    of_first = [vector(first, state, seed) for state, seed in ((0, 7), (1, 7), (1, 8))]
    assert len(set(of_first)) == 3
    assert [vector(second, state, seed) for state, seed in ((1, 8), (0, 7))] == [of_first[2], of_first[0]]


def test_random_placements_are_displaced_too(build, monkeypatch):
    environment = build(TABLE_TASK, init_states=False)
    monkeypatch.setenv("ATLASVLA_LIBERO_DETERMINISTIC_RESET", "1")
    stock = placed(environment, 0, 5, monkeypatch, 0)
    displaced = placed(environment, 0, 5, monkeypatch, LIMIT_CM)
    moved = 100 * (displaced["akita_black_bowl_1"] - stock["akita_black_bowl_1"])
    np.testing.assert_allclose(moved[:2], displacement_cm_of(environment), atol=SETTLE_CM)


def test_a_displacement_before_the_initial_state_would_be_overwritten(build, monkeypatch):
    """Why the hook comes after set_init_state."""
    environment = build(TABLE_TASK)
    stock = placed(environment, 0, 5, monkeypatch, 0)["akita_black_bowl_1"]
    control = environment._env
    control.seed(5)
    control.reset()
    vector, _ = displace(control, LIMIT_CM, displacement_rng(5))
    assert np.abs(vector).max() > 0.01
    control.set_init_state(environment._init_states[0])
    np.testing.assert_allclose(positions(environment)["akita_black_bowl_1"][:2], stock[:2], atol=SETTLE_CM / 100)


def test_the_observation_is_of_the_displaced_scene(build, monkeypatch):
    environment = build(TABLE_TASK)
    placed(environment, 0, 5, monkeypatch, 0)
    control = environment._env
    before = control.sim.data.body_xpos[control.env.obj_body_id["plate_1"]].copy()
    vector, observation = displace(control, LIMIT_CM, displacement_rng(5))
    np.testing.assert_allclose(observation["plate_1_pos"][:2], before[:2] + vector, atol=1e-6)


def test_nothing_that_stays_is_run_into_and_nothing_leaves_the_table(build, monkeypatch):
    environment = build(COOKIE_BOX_TASK)  # the cabinet moves, the stove stays
    placed(environment, 0, 5, monkeypatch, 0)
    placement = displace_module._Placement(environment._env)
    verdicts = {}
    for vector in ((0.0, 0.0), (-0.12, 0.03), (0.0, 0.3), (0.12, 0.0)):
        placement.move(np.array(vector))
        verdicts[vector] = (placement._on_table(), placement._in_reach(), placement._clear())
    assert verdicts == {
        (0.0, 0.0): (True, True, True),
        (-0.12, 0.03): (True, True, False),  # the cabinet into the stove
        (0.0, 0.3): (True, False, True),
        (0.12, 0.0): (True, False, True),
    }
    placement.move(np.array([0.0, 0.5]))
    assert not placement._on_table()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_valid_placement_is_said_in_a_sentence(build, monkeypatch):
    environment = build(TABLE_TASK)
    placed(environment, 0, 5, monkeypatch, 0)
    monkeypatch.setattr(displace_module, "REACH_M", 0.1)
    monkeypatch.setenv(ENV_DISPLACE_CM, "8")
    with pytest.raises(DisplacementError) as caught:
        environment.reset(seed=5)
    message = str(caught.value)
    for part in ("displace_cm=8 leaves no valid placement", "from_table_center", "--displace_cm", ENV_DISPLACE_CM):
        assert part in message
    # The environment is as usable as before.
    monkeypatch.undo()
    monkeypatch.setenv(ENV_DISPLACE_CM, "8")
    environment.reset(seed=5)
    assert displacement_cm_of(environment) is not None


@pytest.mark.parametrize("text", ["far", "-1", "nan", "inf", "31", "[8]"])
def test_a_bad_variable_is_refused_before_anything_is_built(monkeypatch, text):
    from lerobot_atlasvla.libero.setup import prepare_libero

    monkeypatch.setenv(ENV_DISPLACE_CM, text)
    with pytest.raises(ValueError, match=ENV_DISPLACE_CM) as caught:
        prepare_libero()
    assert "allowed: 0 (off) to 30 cm" in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [(None, 0.0), ("", 0.0), ("0", 0.0), ("7.5", 7.5)])
def test_good_variables(monkeypatch, text, value):
    monkeypatch.delenv(ENV_DISPLACE_CM, raising=False)
    if text is not None:
        monkeypatch.setenv(ENV_DISPLACE_CM, text)
    assert displace_cm_from_env() == value


@pytest.mark.parametrize("value", ["-1", "31"])
def test_a_bad_flag_of_the_collector_is_refused(tmp_path, capsys, value):
    assert collect_main([f"--root={tmp_path / 'ds'}", f"--displace_cm={value}"]) == 1
    assert f"--displace_cm={float(value)} is not a displacement; allowed: 0 (off) to 30 cm" in capsys.readouterr().err
    assert not (tmp_path / "ds").exists()


def test_a_text_is_no_displacement():
    with pytest.raises(ValueError, match="--displace_cm=far is not"):
        check_displace_cm("far", "--displace_cm")


# -- the random stream -------------------------------------------------------------------------------------------------


def test_streams_differ_by_seed_and_by_state():
    state = np.arange(5.0)
    streams = [(7, None), (8, None), (7, state), (7, state + 1e-12), (None, state)]
    draws = [displacement_rng(*arguments).uniform(size=2).tolist() for arguments in streams]
    assert len({json.dumps(draw) for draw in draws}) == len(streams)
    assert displacement_rng(7, state).uniform(size=2).tolist() == draws[2]


# -- demonstrations ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_demonstrations_displacement_depends_on_its_seed_alone():
    from lerobot_atlasvla.libero.demonstrations.episode import Demonstrator

    demonstrator = Demonstrator("libero_spatial", STOVE_TASK, image_size=PIXELS)
    try:
        demonstrator.reset(11)
        assert demonstrator.displacement is None
        first = demonstrator.reset(11, LIMIT_CM)
        displacement = demonstrator.displacement
        assert displacement is not None
        assert 0 < np.abs(displacement.vector_cm).max() <= LIMIT_CM
        np.testing.assert_allclose(displacement.target_moved_cm, displacement.vector_cm, atol=SETTLE_CM)
        demonstrator.reset(12, LIMIT_CM)
        assert demonstrator.displacement != displacement
        again = demonstrator.reset(11, LIMIT_CM)
        assert demonstrator.displacement == displacement
        np.testing.assert_array_equal(again["agentview_image"], first["agentview_image"])
    finally:
        demonstrator.close()
