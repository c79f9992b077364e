"""Measure how a rollout went, beside its success: what it disturbed, and how far and how smoothly the gripper moved.

*Undisturbed* follows PARC 2026, a competition on LIBERO-Plus, which counts a success only if no object that the task
does not name moved by more than 1 mm from its pose after settling. Ours beside it: rotations above 1 degree, and the
joints of cabinets, stoves and the like.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ

TOLERANCE_M = 0.001
TOLERANCE_DEG = 1.0


def undisturbed(control: Any, states: Sequence[np.ndarray]) -> bool:
    """Tell whether nothing moved that the task does not name.

    Args:
        control: LIBERO's ``ControlEnv``.
        states: Flattened states of its simulator, the first after settling.
    """
    from mujoco import mjtJoint  # pyrefly: ignore[missing-module-attribute]

    model, domain = control.sim.model._model, control.env
    things = {**domain.objects_dict, **domain.fixtures_dict}
    bystanders = [thing for name, thing in things.items() if name not in _named(domain)]
    roots = {int(model.body_rootid[model.body(thing.root_body).id]) for thing in bystanders}
    qpos = np.stack(states)[:, 1 : 1 + model.nq]
    for joint in range(model.njnt):
        if int(model.body_rootid[model.jnt_bodyid[joint]]) not in roots:
            continue
        start, kind = model.jnt_qposadr[joint], model.jnt_type[joint]
        if kind == mjtJoint.mjJNT_FREE:
            moved = _moved(qpos[:, start : start + 3], qpos[:, start + 3 : start + 7])
        elif kind == mjtJoint.mjJNT_SLIDE:
            moved = np.abs(qpos[:, start] - qpos[0, start]).max() > TOLERANCE_M
        else:
            moved = np.rad2deg(np.abs(qpos[:, start] - qpos[0, start])).max() > TOLERANCE_DEG
        if moved:
            return False
    return True


def path_length(positions: Sequence[np.ndarray]) -> float:
    """Return the length, m, of a path through positions, (3,), m."""
    return round(float(np.linalg.norm(np.diff(np.stack(positions), axis=0), axis=1).sum()), 4)


def jerk(positions: Sequence[np.ndarray]) -> float | None:
    """Return the root mean square of the third derivative of positions, m/s^3; None for fewer than four.

    Args:
        positions: (3,), m, one per control step.
    """
    if len(positions) < 4:
        return None
    third = np.diff(np.stack(positions), n=3, axis=0) * CONTROL_FREQ_HZ**3
    return round(float(np.sqrt((third**2).sum(axis=1).mean())), 3)


def _named(domain: Any) -> set[str]:
    """Objects and fixtures of ``:obj_of_interest``, which may name a region of one, too."""
    sites = domain.object_sites_dict
    return {sites[name].parent_name if name in sites else name for name in domain.obj_of_interest}


def _moved(positions: np.ndarray, quaternions: np.ndarray) -> bool:
    if np.linalg.norm(positions - positions[0], axis=1).max() > TOLERANCE_M:
        return True
    turns = Rotation.from_quat(quaternions, scalar_first=True)
    return bool(np.rad2deg((turns * turns[0].inv()).magnitude()).max() > TOLERANCE_DEG)
