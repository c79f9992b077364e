"""Path, jerk, and what a rollout disturbed."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from eval.rollout.workers.motion import jerk, path_length, undisturbed

SCENE = """
<mujoco><worldbody>
  <body name="robot"><joint name="arm" type="hinge"/><geom size=".1"/></body>
  <body name="bowl"><freejoint/><geom size=".1"/></body>
  <body name="plate" pos="1 0 0"><freejoint/><geom size=".1"/></body>
  <body name="cabinet"><geom size=".1"/>
    <body name="drawer"><joint name="drawer" type="slide" axis="0 1 0"/><geom size=".1"/></body></body>
  <body name="stove"><geom size=".1"/><body name="knob"><joint name="knob" type="hinge"/><geom size=".1"/></body></body>
</worldbody></mujoco>"""


def control(*of_interest: str) -> SimpleNamespace:
    """What of LIBERO's environment is asked."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    thing = lambda name: SimpleNamespace(root_body=name)  # noqa: E731
    domain = SimpleNamespace(
        objects_dict={"bowl_1": thing("bowl"), "plate_1": thing("plate")},
        fixtures_dict={"cabinet_1": thing("cabinet"), "stove_1": thing("stove")},
        object_sites_dict={"cabinet_1_top_region": SimpleNamespace(parent_name="cabinet_1")},
        obj_of_interest=list(of_interest),
    )
    return SimpleNamespace(sim=SimpleNamespace(model=SimpleNamespace(_model=model)), env=domain)


def states_with(model: mujoco.MjModel, **moves: float) -> list[np.ndarray]:
    """Three states; in the second, and only there, joints have moved: x of a body, a joint, or a body's angle."""
    data = mujoco.MjData(model)
    states = []
    for scale in (0.0, 1.0, 0.0):
        qpos = model.qpos0.copy()
        for name, move in moves.items():
            body, _, what = name.partition("_")
            if what == "turn_deg":
                address = model.jnt_qposadr[model.body(body).jntadr[0]]
                half = np.deg2rad(scale * move) / 2
                qpos[address + 3 : address + 7] = [np.cos(half), 0, 0, np.sin(half)]
            else:
                address = model.jnt_qposadr[model.body(body).jntadr[0]]
                qpos[address] += scale * move
        states.append(np.concatenate([[data.time], qpos, np.zeros(model.nv)]))
    return states


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ({}, True),
        ({"robot": 1.0, "bowl": 0.5}, True),
        ({"plate": 0.0009}, True),
        ({"plate": 0.0011}, False),
        ({"plate_turn_deg": 0.9}, True),
        ({"plate_turn_deg": 1.1}, False),
        ({"drawer": 0.0009}, True),
        ({"drawer": -0.0011}, False),
        ({"knob": np.deg2rad(0.9)}, True),
        ({"knob": np.deg2rad(-1.1)}, False),
    ],
)
def test_what_counts_as_disturbed(moves, expected):
    env = control("bowl_1")
    assert undisturbed(env, states_with(env.sim.model._model, **moves)) is expected


def test_a_region_of_interest_stands_for_its_fixture():
    env = control("bowl_1", "cabinet_1_top_region")
    states = states_with(env.sim.model._model, drawer=0.1)
    assert undisturbed(env, states)
    assert not undisturbed(control("bowl_1"), states)


def test_path_and_jerk():
    times = np.arange(10) / 20  # s
    straight = [np.array([0.3 * t, 0.4 * t, 0.0]) for t in times]
    assert path_length(straight) == pytest.approx(0.5 * times[-1])
    assert jerk(straight) == pytest.approx(0, abs=1e-6)
    cubic = [np.array([2 * t**3, 0.0, 0.0]) for t in times]
    assert jerk(cubic) == pytest.approx(12)
    assert jerk(straight[:3]) is None
    assert path_length(straight[:1]) == 0
