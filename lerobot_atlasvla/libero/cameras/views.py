"""Render what a camera of a LIBERO simulation sees, with depth and its place, at this or an earlier moment."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.cameras.pinhole import cell_medians, extrinsics_of, intrinsics_of, unproject
from lerobot_atlasvla.libero.cameras.ranges import CameraPose
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA, WRIST_CAMERA

CLEARANCE_M = 0.15
"""A camera is at least so far from the robot."""
HIDDEN_M = 0.01
"""An object is hidden if a ray to its origin meets something else more than this far in front of it."""

# What MuJoCo draws from: everything that moves, in the world's frame, and the colors of sites, by which LIBERO shows
# that a stove is on.
_POSES = ("xpos", "xmat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos")
_POSES += ("light_xdir",)


def snapshot(sim: Any) -> np.ndarray:
    """Return all that a robosuite ``MjSim`` draws from as one vector; an image of it is one of this moment."""
    return np.concatenate([array.ravel() for array in _drawn(sim)])


def restore(sim: Any, moment: np.ndarray) -> None:
    """Let a simulation draw the moment of a snapshot. The next step or ``sim.forward()`` undoes it, but for colors."""
    start = 0
    for array in _drawn(sim):
        array[...] = moment[start : start + array.size].reshape(array.shape)
        start += array.size


def _drawn(sim: Any) -> list[np.ndarray]:
    return [*(getattr(sim.data._data, name) for name in _POSES), sim.model._model.site_rgba]


@dataclass(frozen=True)
class View:
    """Holds one camera's image, with the depth and the camera's matrices.

    Attributes:
        image: (H, W, 3) uint8, turned by 180 degrees as it is stored.
        depth: (h, w) float32, m along the optical axis: the median of each cell.
        intrinsics: (3, 3) float32, in pixels of the image (:mod:`~lerobot_atlasvla.libero.cameras.pinhole`).
        extrinsics: (4, 4) float32, from the camera's frame (OpenCV's axes) to the robot base's.
        object_coordinates: (h, w, 4) float32: where each cell is in the frame of the body that it shows (x, y, z, m),
            and a number of 24 bits made of the body's name. The same for a thing wherever it is, and whatever looks at
            it. None if not asked for.
    """

    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    object_coordinates: np.ndarray | None = None


class Viewer:
    """Looks at a simulation that has just been reset; a hard reset ends its life.

    Args:
        env: LIBERO's ``ControlEnv``, able to render.
        image_size: Height and width of images, pixels.
        depth_cell_px: Side of the cells that depth is reduced to, pixels.
    """

    def __init__(self, env: Any, image_size: int, depth_cell_px: int) -> None:
        self._sim = env.sim
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self._size, self._cell = image_size, depth_cell_px
        base = self._data.body(env.env.robots[0].robot_model.root_body)
        self._base = base.xpos.copy(), base.xmat.reshape(3, 3).copy()
        self._robot_geoms = np.flatnonzero(
            self._model.body_rootid[self._model.geom_bodyid] == self._model.body_rootid[base.id]
        )
        from mujoco import mjtJoint  # pyrefly: ignore[missing-module-attribute]

        names = (self._model.body(index).name for index in range(self._model.nbody))
        self._body_numbers = np.array([zlib.crc32(name.encode()) % 2**24 for name in names])
        self._loose = self._model.jnt_bodyid[self._model.jnt_type == mjtJoint.mjJNT_FREE]
        groups = env.sim._render_context_offscreen.vopt.geomgroup
        self._drawn_groups = np.array([group != 0 for group in groups], dtype=np.uint8)
        self.nominal = self.pose_of(SCENE_CAMERA)
        """LIBERO's own pose of the scene camera."""

    def frames_of_reference(self, eef_pos: np.ndarray, eef_quat: np.ndarray) -> dict[str, Any]:
        """Return what relates extrinsics to ``observation.state``, for a record (JSON types).

        Args:
            eef_pos: The end effector as it is now, as the state has it: (3,), m, in the world.
            eef_quat: x, y, z, w.

        Returns:
            (4, 4) matrices: from the robot base's frame to the world's, in which the state is, and from the wrist
            camera's (OpenCV's axes) to the end effector's.
        """
        from scipy.spatial.transform import Rotation

        base, eef = np.eye(4), np.eye(4)
        base[:3, 3], base[:3, :3] = self._base
        eef[:3, 3], eef[:3, :3] = eef_pos, Rotation.from_quat(eef_quat).as_matrix()
        at = self._data.cam(WRIST_CAMERA)
        camera = base @ extrinsics_of(at.xpos, at.xmat.reshape(3, 3), *self._base)
        return {
            "base_to_world": base.round(6).tolist(),
            "wrist_camera_to_eef": (np.linalg.inv(eef) @ camera).round(6).tolist(),
        }

    def pose_of(self, camera: str) -> CameraPose:
        """Return where a camera of the simulator is now."""
        from scipy.spatial.transform import Rotation

        at = self._data.cam(camera)
        return CameraPose(at.xpos.copy(), Rotation.from_matrix(at.xmat.reshape(3, 3)))

    def render(self, camera: str, pose: CameraPose | None = None, *, object_coordinates: bool = False) -> View:
        """Render an image and its depth in one pass, and its object coordinates in another.

        Args:
            camera: One of the simulator's cameras.
            pose: Where it is to be for this image; None leaves it alone.
            object_coordinates: Whether to render them, too.
        """
        with self._camera_at(camera, pose):
            image, buffer = self._sim.render(camera_name=camera, width=self._size, height=self._size, depth=True)
            at = self._data.cam(camera)
            extrinsics = extrinsics_of(at.xpos, at.xmat.reshape(3, 3), *self._base)
            bodies = self._bodies(camera)[::-1, ::-1] if object_coordinates else None
        depth, pixels = cell_medians(self._meters(buffer)[::-1, ::-1], self._cell)
        intrinsics = intrinsics_of(self._model.cam_fovy[at.id], self._size)
        shown = None
        if bodies is not None:
            points = unproject(depth, intrinsics, extrinsics, self._size)
            shown = self._object_coordinates(points, bodies.ravel()[pixels])
        return View(
            image=np.ascontiguousarray(image[::-1, ::-1]),
            depth=np.ascontiguousarray(depth),
            intrinsics=intrinsics,
            extrinsics=extrinsics,
            object_coordinates=shown,
        )

    def suits(self, pose: CameraPose) -> bool:
        """Return whether at least half of the loose objects can be seen from a pose, and it is clear of the robot."""
        return self._clear_of_robot(pose) and bool(2 * self._seen(pose).sum() >= len(self._loose))

    @contextmanager
    def _camera_at(self, camera: str, pose: CameraPose | None) -> Iterator[None]:
        if pose is None:
            yield
            return
        at = self._data.cam(camera)
        before = at.xpos.copy(), at.xmat.copy()
        at.xpos[:], at.xmat[:] = pose.position, pose.rotation.as_matrix().ravel()
        try:
            yield
        finally:
            at.xpos[:], at.xmat[:] = before

    def _meters(self, buffer: np.ndarray) -> np.ndarray:
        """Turn OpenGL's depth in [0, 1] into m along the optical axis."""
        near, far = (plane * self._model.stat.extent for plane in (self._model.vis.map.znear, self._model.vis.map.zfar))
        return (near / (1 - buffer.astype(np.float64) * (1 - near / far))).astype(np.float32)

    def _bodies(self, camera: str) -> np.ndarray:
        """(H, W) numbers of the bodies that a camera shows; 0, the world, where there is none."""
        from mujoco import mjtObj, mjtRndFlag  # pyrefly: ignore[missing-module-attribute]

        scene = self._sim._render_context_offscreen.scn
        # Not robosuite 1.4's own segmentation, which overflows from 256 geoms on.
        flags = [int(mjtRndFlag.mjRND_SEGMENT), int(mjtRndFlag.mjRND_IDCOLOR)]
        scene.flags[flags] = 1
        try:
            colors = self._sim.render(camera_name=camera, width=self._size, height=self._size).astype(np.int64)
        finally:
            scene.flags[flags] = 0
        body_of = np.zeros(scene.ngeom + 1, dtype=np.int64)
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mjtObj.mjOBJ_GEOM:
                body_of[geom.segid + 1] = self._model.geom_bodyid[geom.objid]
        drawn = colors @ [1, 2**8, 2**16]
        return body_of[np.where(drawn <= scene.ngeom, drawn, 0)]

    def _object_coordinates(self, points: np.ndarray, bodies: np.ndarray) -> np.ndarray:
        """Return :attr:`View.object_coordinates` of points in the robot base's frame, (h, w, 3), of bodies, (h, w)."""
        position, turn = self._base
        world = points @ turn.T + position
        turns = self._data.xmat.reshape(-1, 3, 3)[bodies]
        local = np.einsum("hwji,hwj->hwi", turns, world - self._data.xpos[bodies])
        return np.concatenate((local, self._body_numbers[bodies][..., None]), axis=-1).astype(np.float32)

    def _clear_of_robot(self, pose: CameraPose) -> bool:
        geoms = self._robot_geoms
        turns = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        inside = np.einsum("gji,gj->gi", turns, pose.position - self._data.geom_xpos[geoms])
        boxes = self._model.geom_aabb[geoms]
        gaps = np.maximum(np.abs(inside - boxes[:, :3]) - boxes[:, 3:], 0)
        return bool((np.linalg.norm(gaps, axis=1) >= CLEARANCE_M).all())

    def _seen(self, pose: CameraPose) -> np.ndarray:
        """(objects,) bool: the loose objects whose origin is in the image, with nothing else in front of it."""
        from mujoco import mj_ray  # pyrefly: ignore[missing-module-attribute]

        rays = self._data.xpos[self._loose] - pose.position
        right, up, back = pose.rotation.inv().apply(rays).T
        reach = -back * np.tan(np.deg2rad(self._model.cam_fovy[self._data.cam(SCENE_CAMERA).id]) / 2)
        seen = (back < 0) & (np.abs(right) < reach) & (np.abs(up) < reach)
        hit = np.zeros(1, dtype=np.int32)
        for index in np.flatnonzero(seen):
            length = np.linalg.norm(rays[index])
            distance = mj_ray(
                self._model, self._data, pose.position, rays[index] / length, self._drawn_groups, 1, -1, hit
            )
            itself = self._model.body_rootid[self._model.geom_bodyid[hit[0]]] == self._loose[index]
            seen[index] = distance < 0 or itself or distance > length - HIDDEN_M
        return seen
