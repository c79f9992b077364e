"""Read demonstrations from HDF5 files in LIBERO's layout.

Written after LIBERO's ``scripts/create_dataset.py`` and OpenVLA's ``regenerate_libero_dataset.py``, which produce these
files: a group ``data`` with ``demo_0``, ``demo_1``, ...; frames as robosuite renders them; orientations as axis-angle
with the angle in [0, 2 pi], which is how LeRobot's ``LiberoProcessorStep`` gives them to a policy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_atlasvla.libero.demonstrations.schema import ACTION_DIM
from lerobot_atlasvla.libero.tasks import task_from_name

if TYPE_CHECKING:
    import h5py

NOOP_THRESHOLD = 1e-4
"""OpenVLA's: below this norm of the six motion values nothing moves."""
READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError)
"""Exceptions that h5py raises for damaged content."""
ARM_JOINTS = slice(1, 8)
"""The arm's seven joints in a row of ``states``: after the time, the robot comes first."""


class DemoError(Exception):
    """A file or one demonstration in it cannot be used; the message says why."""


@dataclass(frozen=True)
class Demonstration:
    """One demonstration; row ``t`` of every array belongs together.

    Attributes:
        agentview: Scene camera, (T, H, W, 3) uint8, as rendered (OpenGL convention, not rotated).
        wrist: Wrist camera, (T, H, W, 3) uint8, as rendered.
        state: (T, 8) float32: end-effector position (m), axis-angle (rad), finger positions (m).
        actions: (T, 7) in the file's precision.
    """

    agentview: np.ndarray
    wrist: np.ndarray
    state: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def image_size(self) -> int:
        """Return height and width of both cameras, pixels."""
        return self.agentview.shape[1]

    def without_noops(self) -> Demonstration:
        """Return the demonstration without the rows whose action does nothing (:func:`moving_rows`)."""
        rows = moving_rows(self.actions)
        if rows.all():
            return self
        return replace(
            self,
            agentview=self.agentview[rows],
            wrist=self.wrist[rows],
            state=self.state[rows],
            actions=self.actions[rows],
        )


def moving_rows(actions: np.ndarray) -> np.ndarray:
    """Find the actions that do something, by the rule that the published data were filtered with.

    An action does nothing if its first six values have a norm below 1e-4 and its gripper value is that of the last
    action kept (any, as long as none was kept).

    Args:
        actions: (T, 7).

    Returns:
        (T,) bool.
    """
    still = np.linalg.norm(actions[:, :-1], axis=1) < NOOP_THRESHOLD
    keep = np.zeros(len(actions), dtype=bool)
    gripper = None
    for row, action in enumerate(actions):
        keep[row] = not (still[row] and gripper in (None, action[-1]))
        if keep[row]:
            gripper = action[-1]
    return keep


def open_data(path: Path) -> tuple[h5py.File, h5py.Group]:
    """Open a file; the caller closes it.

    Args:
        path: The file.

    Returns:
        The open file and its group ``data``.

    Raises:
        DemoError: If it cannot be read, or is laid out otherwise.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except PermissionError as error:
        raise DemoError(f"permission denied ({error})") from error
    except READ_ERRORS as error:
        if "unable to lock file" in str(error):
            raise DemoError(
                "another program has it open for writing, or its disk knows no locks; close that program, or set "
                f"HDF5_USE_FILE_LOCKING=FALSE ({error})"
            ) from error
        raise DemoError(f"not readable as HDF5, damaged or cut short? ({error})") from error
    try:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            found = ", ".join(sorted(file)[:5]) or "nothing"
            raise DemoError(f"unknown layout: LIBERO's files hold a group 'data' at the top, this one {found}")
        if not demo_names(data):
            found = ", ".join(sorted(data)[:5]) or "nothing"
            raise DemoError(f"holds no demonstrations: its group 'data' holds no 'demo_0', ... but {found}")
    except DemoError:
        file.close()
        raise
    except READ_ERRORS as error:
        file.close()
        raise DemoError(f"damaged ({error})") from error
    return file, data


def demo_names(data: h5py.Group) -> list[str]:
    """Return the names of the demonstrations, by number."""
    return sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))


def task_text(data: h5py.Group, path: Path, source: str) -> str:
    """Return the instruction of every demonstration in a file.

    The attribute ``problem_info`` and LIBERO's ``task.language`` differ in 34 of 130 tasks ("Pick the akita black bowl
    ..." for "pick up the black bowl ..."); what policies are told at evaluation, and what the published data say, is
    ``task.language``, and LIBERO derives that from the file's name.

    Args:
        data: The group ``data``.
        path: The file.
        source: ``benchmark`` for ``task.language``, ``attribute`` for what ``problem_info`` says. Either falls back on
            the other if the file lacks it.

    Returns:
        The instruction, never empty.

    Raises:
        DemoError: If the file does not say.
    """
    stem = path.name.removesuffix(".hdf5")
    from_file = task_from_name(stem.removesuffix("_demo"))
    from_bddl = task_from_name(Path(_text(data.attrs.get("bddl_file_name"))).name.removesuffix(".bddl"))
    from_benchmark = from_file if stem.endswith("_demo") else from_bddl
    from_attribute = _instruction(_text(data.attrs.get("problem_info")))
    candidates = [from_benchmark, from_attribute] if source == "benchmark" else [from_attribute, from_benchmark]
    text = next((text for text in [*candidates, from_file] if text), None)
    if text is None:
        raise DemoError("neither its name nor its attribute problem_info say what the task is")
    return text


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def _instruction(problem_info: str) -> str:
    try:
        instruction = json.loads(problem_info)["language_instruction"]
    except (ValueError, KeyError, TypeError):
        return ""
    # LIBERO's own reader strips the quotation marks too.
    return instruction.strip().strip('"').strip() if isinstance(instruction, str) else ""


def read_demo(data: h5py.Group, name: str, timing: str) -> Demonstration:
    """Read and check one demonstration.

    Args:
        data: The group ``data``.
        name: ``demo_0``, ...
        timing: Whether a row's observation was taken ``before`` or ``after`` its action; ``auto`` tells from the
            simulator's states.

    Returns:
        The demonstration; each row's observation is the one before its action.

    Raises:
        DemoError: If something is missing, damaged, not finite, or of another shape or length.
    """
    import h5py

    try:
        demo = data[name]
        if not isinstance(demo, h5py.Group):
            raise DemoError("is not a group")
        actions = _array(demo, "actions", (ACTION_DIM,))
        observations = _observations(demo, len(actions))
        announced = demo.attrs.get("num_samples", len(actions))
        if announced != len(actions):
            raise DemoError(f"num_samples says {announced}, but actions has {len(actions)} rows")
        if timing == "after" or (timing == "auto" and _observed_after_acting(demo)):
            # The observation after one action is the one before the next.
            observations = {key: rows[:-1] for key, rows in observations.items()}
            actions = actions[1:]
    except READ_ERRORS as error:
        raise DemoError(f"damaged ({error})") from error
    if not len(actions):
        raise DemoError("has no rows")
    # The published data hold the image as the simulator's OpenGL convention gives it, rotated; opencv is a flip away.
    if _text(data.attrs.get("macros_image_convention")) == "opencv":
        observations |= {key: observations[key][:, ::-1] for key in ("agentview", "wrist")}
    return Demonstration(actions=actions, **observations)


def _observations(demo: h5py.Group, rows: int) -> dict[str, np.ndarray]:
    images = {
        "agentview": _array(demo, "obs/agentview_rgb", None),
        "wrist": _array(demo, "obs/eye_in_hand_rgb", None),
    }
    size = images["agentview"].shape[1:3]
    for key, frames in images.items():
        if frames.shape[1:] != (size[0], size[0], 3):
            raise DemoError(
                f"{key} frames have shape {frames.shape[1:]}, allowed: both cameras square, equal, 3 channels"
            )
    if "obs/ee_states" in demo:
        pose = [_array(demo, "obs/ee_states", (6,))]
    else:
        pose = [_array(demo, "obs/ee_pos", (3,)), _array(demo, "obs/ee_ori", (3,))]
    parts = [*pose, _array(demo, "obs/gripper_states", (2,))]
    lengths = {len(part) for part in (*images.values(), *parts)}
    if lengths != {rows}:
        raise DemoError(f"lengths differ: actions has {rows} rows, the observations {sorted(lengths)}")
    return images | {"state": np.concatenate(parts, axis=1).astype(np.float32)}


def _array(demo: h5py.Group, key: str, width: tuple[int, ...] | None) -> np.ndarray:
    """Rows of finite numbers of a width, or (None) images of any size."""
    import h5py

    node = demo.get(key)
    if not isinstance(node, h5py.Dataset):
        raise DemoError(f"has no {key}")
    if width is None and (node.dtype != np.uint8 or len(node.shape) != 4):
        raise DemoError(f"{key} is {node.dtype} of shape {node.shape}, must be uint8 of shape (T, H, W, 3)")
    if width is not None and (node.dtype.kind not in "fiu" or node.shape[1:] != width):
        raise DemoError(f"{key} is {node.dtype} of shape {node.shape}, must be numbers of shape (T, {width[0]})")
    array = np.asarray(node[()])
    if width is not None and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array).all(axis=1))[0, 0])
        raise DemoError(f"{key} holds NaN or infinity, first in row {row}")
    return array


def _observed_after_acting(demo: h5py.Group) -> bool:
    """Tell whether the observed joints are nearer to the simulator's next state than to the state of their own row.

    ``states`` hold what an action started from. LIBERO's own files pair it with the observation that the action led to,
    OpenVLA's with the one that it was chosen from, which is what a policy gets at evaluation.
    """
    import h5py

    states, joints = demo.get("states"), demo.get("obs/joint_states")
    if not (isinstance(states, h5py.Dataset) and isinstance(joints, h5py.Dataset)):
        return False
    if len(states.shape) != 2 or states.shape[1] < ARM_JOINTS.stop or joints.shape != (len(states), 7):
        return False
    started, observed = np.asarray(states[:, ARM_JOINTS]), np.asarray(joints[()])
    to_own = np.linalg.norm(observed[:-1] - started[:-1], axis=1).sum()
    to_next = np.linalg.norm(observed[:-1] - started[1:], axis=1).sum()
    return bool(to_next < to_own)
