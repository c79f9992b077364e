"""Displace the objects of a task, so that a policy has to see where they are.

LIBERO spreads the objects of ``libero_spatial`` by about 1 cm: a policy that knows the instruction finds the bowl
without looking. Here all loose objects of a scene are moved by one random vector along the table, drawn uniformly from
a square of ``2 * displace_cm`` a side. A fixture (cabinet, stove) moves along where an object stands in or on it, and
stays where it is otherwise. Heights, rotations and the robot are left alone.

``ATLASVLA_LIBERO_DISPLACE_CM`` applies it to LeRobot's LIBERO environments, after the initial state has been set and
before the objects settle.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_atlasvla.libero.environment import read_variable

if TYPE_CHECKING:
    from libero.libero.envs.env_wrapper import ControlEnv

ENV_DISPLACE_CM = "ATLASVLA_LIBERO_DISPLACE_CM"
MAX_CM = 30.0
"""Beyond this hardly any vector keeps the objects on the table."""
TRIES = 500
"""Vectors drawn before a placement is given up."""
CLEARANCE_M = 0.01
"""Smallest distance allowed between what moved and what stayed."""
REACH_M = 0.83
"""Largest horizontal distance from the robot's base to an object that the goal names."""


class DisplacementError(ValueError):
    """Nothing can be displaced as asked; the message says what is allowed."""


def check_displace_cm(value: Any, name: str) -> float:
    """Check that a displacement is a number of centimeters that the objects can be moved by.

    Args:
        value: Half the side of the square, cm.
        name: Flag or variable that it came from, for the message.

    Returns:
        The value.

    Raises:
        ValueError: Unless it is a number in [0, :data:`MAX_CM`].
    """
    known = isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= MAX_CM
    if not known:
        raise ValueError(f"{name}={value} is not a displacement; allowed: 0 (off) to {MAX_CM:g} cm")
    return float(value)


def displace_cm_from_env() -> float:
    """Read ``ATLASVLA_LIBERO_DISPLACE_CM``; 0, no displacement, if it is not set.

    Raises:
        ValueError: If it is not a number of cm in [0, :data:`MAX_CM`].
    """
    text = read_variable(ENV_DISPLACE_CM, "0")
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    return check_displace_cm(value, ENV_DISPLACE_CM)


def displacement_rng(seed: int | None, initial_state: np.ndarray | None = None) -> np.random.Generator:
    """Make the random stream of one placement, which depends on nothing but the arguments.

    Args:
        seed: Seed of the reset. None draws fresh entropy, unless there is an initial state.
        initial_state: LIBERO's fixed initial state, flattened, if there is one.
    """
    if seed is None and initial_state is None:
        return np.random.default_rng()
    state = b"" if initial_state is None else np.ascontiguousarray(initial_state, dtype=np.float64).tobytes()
    digest = hashlib.sha256(f"displacement {seed} ".encode() + state).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def displace(env: ControlEnv, limit_cm: float, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """Move all loose objects, and the fixtures that carry some, by one random vector.

    Vectors that lead to an invalid placement are drawn again: nothing that moved may leave the table or come closer
    than :data:`CLEARANCE_M` to a fixture that stayed or to the robot, and no object that the goal names may be out of
    the robot's reach (:data:`REACH_M`).

    Args:
        env: Where an initial state or a random placement has just been set.
        limit_cm: Half the side of the square that vectors are drawn from, cm.
        rng: Source of the vectors.

    Returns:
        The vector, (2,), m, along x and y of the world, and a fresh observation.

    Raises:
        DisplacementError: If no vector drawn is valid, or a fixture that has to move is not placed by the reset.
    """
    placement = _Placement(env)
    for _ in range(TRIES):
        vector = rng.uniform(-limit_cm, limit_cm, 2) / 100
        placement.move(vector)
        if placement.valid():
            return vector, env.regenerate_obs_from_state(env.get_sim_state())
    raise DisplacementError(
        f"displace_cm={limit_cm:g} leaves no valid placement of the task {_task_name(env)} in {TRIES} tries, because "
        "objects would leave the table, the robot's reach or run into something; choose another value of "
        f"--displace_cm (or {ENV_DISPLACE_CM}), 0 for no displacement."
    )


def target_xy(env: ControlEnv) -> np.ndarray:
    """Return the position, (2,), m, of the object that the goal says to move (the bowl)."""
    domain = env.env
    return env.sim.data.body_xpos[domain.obj_body_id[_goal_objects(domain)[0]]][:2].copy()


def displacement_cm_of(env: Any) -> tuple[float, float] | None:
    """Return the vector (x and y, cm) of the last reset of LeRobot's ``LiberoEnv``; None if nothing was displaced."""
    return getattr(env, "_atlasvla_displacement_cm", None)


def vector_in_cm(vector: np.ndarray) -> tuple[float, float]:
    """Turn a vector, (2,), m, into centimeters, rounded to micrometers for records."""
    x, y = (round(100 * float(value), 4) for value in vector)
    return x, y


def hook_environments(module: ModuleType) -> None:
    """Make LeRobot's LIBERO environments obey ``ATLASVLA_LIBERO_DISPLACE_CM`` at every reset.

    Args:
        module: ``lerobot.envs.libero``, freshly imported.
    """
    import wrapt

    def reset(wrapped: Any, env: Any, args: Any, kwargs: Any) -> Any:
        env._atlasvla_displacement_cm = None
        limit_cm = displace_cm_from_env()
        if not limit_cm:
            return wrapped(*args, **kwargs)
        env._ensure_env()
        control = env._env
        seed = args[0] if args else kwargs.get("seed")
        # The last step before the objects settle. A displacement before set_init_state would be overwritten by it.
        last = "reset" if env._init_states is None else "set_init_state"
        place = getattr(control, last)

        def place_and_displace(*states: np.ndarray) -> dict[str, Any]:
            place(*states)
            vector, observation = displace(control, limit_cm, displacement_rng(seed, *states))
            env._atlasvla_displacement_cm = vector_in_cm(vector)
            return observation

        setattr(control, last, place_and_displace)
        try:
            return wrapped(*args, **kwargs)
        finally:
            delattr(control, last)

    wrapt.wrap_function_wrapper(module, "LiberoEnv.reset", reset)


class _Placement:
    """A placement as it was set, and moved.

    Every reset places objects and fixtures anew, so displacements do not add up.
    """

    def __init__(self, env: ControlEnv) -> None:
        from mujoco import mjtJoint  # pyrefly: ignore[missing-module-attribute]

        domain = env.env
        # MuJoCo's own, which robosuite wraps.
        self._model, self._data = env.sim.model._model, env.sim.data._data
        model = self._model
        joints = np.flatnonzero(model.jnt_type == mjtJoint.mjJNT_FREE)
        self._addresses = model.jnt_qposadr[joints]
        fixtures = {
            name: int(model.body_rootid[model.body(fixture.root_body).id])
            for name, fixture in domain.fixtures_dict.items()
        }
        self._carriers = [fixtures[name] for name in _carriers(env)]
        robot = int(model.body_rootid[model.body(domain.robots[0].robot_model.root_body).id])
        moved = {*model.jnt_bodyid[joints].tolist(), *self._carriers}
        stayed = {robot, *fixtures.values()} - moved
        furniture = set(model.body_rootid.tolist()) - {0} - moved - stayed

        collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        roots = model.body_rootid[model.geom_bodyid]
        self._moved, self._stayed, self._furniture = (
            np.flatnonzero(collides & np.isin(roots, sorted(of))) for of in (moved, stayed, furniture)
        )
        self._goals = [domain.obj_body_id[name] for name in _goal_objects(domain)]
        self._base = robot
        self._objects_from = self._data.qpos[self._addresses[:, None] + [0, 1]].copy()
        self._fixtures_from = model.body_pos[self._carriers, :2].copy()

    def move(self, vector: np.ndarray) -> None:
        """Put everything that moves this far, m, from where it was at first."""
        from mujoco import mj_kinematics  # pyrefly: ignore[missing-module-attribute]

        self._data.qpos[self._addresses[:, None] + [0, 1]] = self._objects_from + vector
        self._model.body_pos[self._carriers, :2] = self._fixtures_from + vector
        mj_kinematics(self._model, self._data)

    def valid(self) -> bool:
        return self._on_table() and self._in_reach() and self._clear()

    def _on_table(self) -> bool:
        if not len(self._furniture):
            return True  # a scene on the floor
        table, things = self._extent(self._furniture), self._extent(self._moved)
        return bool((table[0] <= things[0]).all() and (things[1] <= table[1]).all())

    def _extent(self, geoms: np.ndarray) -> np.ndarray:
        """Smallest and largest x and y, (2, 2), m, of geoms."""
        boxes = self._model.geom_aabb[geoms]
        turns = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        centers = self._data.geom_xpos[geoms] + np.einsum("gij,gj->gi", turns, boxes[:, :3])
        halves = np.einsum("gij,gj->gi", np.abs(turns), boxes[:, 3:])
        return np.stack([(centers - halves).min(0)[:2], (centers + halves).max(0)[:2]])

    def _in_reach(self) -> bool:
        positions = self._data.xpos[self._goals, :2] - self._data.xpos[self._base, :2]
        return bool((np.linalg.norm(positions, axis=1) <= REACH_M).all())

    def _clear(self) -> bool:
        # Fixtures are welded to the world, and MuJoCo reports no contacts between two of them: measure distances.
        from mujoco import mj_geomDistance  # pyrefly: ignore[missing-module-attribute]

        model, data = self._model, self._data
        offsets = data.geom_xpos[self._moved][:, None] - data.geom_xpos[self._stayed][None]
        reach = model.geom_rbound[self._moved][:, None] + model.geom_rbound[self._stayed][None]
        near = np.argwhere(np.linalg.norm(offsets, axis=-1) < reach + CLEARANCE_M)
        return all(
            mj_geomDistance(model, data, self._moved[one], self._stayed[other], CLEARANCE_M, None) >= CLEARANCE_M
            for one, other in near
        )


def _goal_objects(domain: Any) -> list[str]:
    """Loose objects that the goal names, in its order: first the one to be moved."""
    names = [name for predicate in domain.parsed_problem["goal_state"] for name in predicate[1:]]
    return [name for name in dict.fromkeys(names) if name in domain.objects_dict]


def _carriers(env: ControlEnv) -> list[str]:
    """Fixtures that a loose object stands in or on, by the task's initial state.

    Raises:
        DisplacementError: If one is not placed by the reset: it would keep its displacement.
    """
    domain = env.env
    regions = domain.parsed_problem["regions"]
    places = [predicate[1:] for predicate in domain.parsed_problem["initial_state"] if predicate[0] in ("on", "in")]
    # A place is a region of something, or an object that carries another one.
    supports = {name: regions[place]["target"] if place in regions else place for name, place in places}
    found = list(
        dict.fromkeys(supports[name] for name in domain.objects_dict if supports.get(name) in domain.fixtures_dict)
    )
    if fixed := [name for name in found if name not in supports]:
        raise DisplacementError(
            f"The task {_task_name(env)} cannot be displaced, because {fixed[0]} carries an object and has no "
            f"placement of its own; leave the task out, or give --displace_cm=0 (or {ENV_DISPLACE_CM}=0)."
        )
    return found


def _task_name(env: ControlEnv) -> str:
    return Path(env.env.bddl_file_name).stem
