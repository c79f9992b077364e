"""Frustum culling: leave out of an image what no ray of the camera can reach, for the same pixels in less time.

MuJoCo sends every geom to the graphics library whether the camera can see it or not. In software rendering the vertices
are the cost, and most of LIBERO's belong to the robot, of which the wrist camera sees the fingers only.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from lerobot_atlasvla.libero.environment import read_switch

ENV_CULL = "ATLASVLA_LIBERO_CULL"
HIDDEN_GROUP = 5
"""Geom group that robosuite never draws."""
MARGIN_M = 0.002
"""Bounding boxes grow by this much, for single precision on the graphics side."""

# Corners of a box of half-sizes 1.
_CORNERS_8x3 = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)


def out_of_sight(model: Any, data: Any, camera_id: int, groups: np.ndarray) -> np.ndarray:
    """Find the geoms that can't appear in a square image, neither directly nor in a mirror.

    A box around the geom must lie wholly beyond one of the planes through the camera that bound the image, and beyond
    one of those that bound each mirror. A mirror is a box or plane with a reflective material; MuJoCo mirrors the scene
    in its face toward +z (``mjr_render`` of MuJoCo 3.3).

    Args:
        model: The ``mujoco.MjModel``.
        data: Its ``mujoco.MjData``, after ``mj_forward``.
        camera_id: A fixed camera.
        groups: (6,) Geom groups that are drawn, not zero for yes.

    Returns:
        (ngeom,) bool. Planes, which have no end, are never out of sight, and nothing is where a light casts shadows:
        what is not seen may darken what is.
    """
    from mujoco import mjtGeom  # pyrefly: ignore[missing-module-attribute]

    if model.light_castshadow.any():
        return np.zeros(model.ngeom, dtype=bool)
    corners = _corners(model, data)
    eye = data.cam_xpos[camera_id]
    frustum = _frustum(model, data, camera_id)
    hidden = _beyond(corners - eye, frustum)
    hidden[model.geom_type == mjtGeom.mjGEOM_PLANE] = False
    for point, normal, inward in _mirrors(model, data, eye, ~hidden & (groups[model.geom_group] != 0)):
        height = (corners - point) @ normal
        mirrored = corners - 2 * height[..., None] * normal
        hidden &= _beyond(mirrored - eye, np.concatenate([frustum, inward]))
    return hidden


def _corners(model: Any, data: Any) -> np.ndarray:
    """(ngeom, 8, 3) corners of the geoms' bounding boxes in the world."""
    center, half = model.geom_aabb[:, :3], model.geom_aabb[:, 3:] + MARGIN_M
    local = center[:, None] + half[:, None] * _CORNERS_8x3
    rotation = data.geom_xmat.reshape(-1, 3, 3)
    return data.geom_xpos[:, None] + np.einsum("gij,gkj->gki", rotation, local)


def _frustum(model: Any, data: Any, camera_id: int) -> np.ndarray:
    """(5, 3) inward normals of the planes through the camera that bound the image, and of the one behind it."""
    rotation = data.cam_xmat[camera_id].reshape(3, 3)
    half = np.deg2rad(model.cam_fovy[camera_id]) / 2
    cos, sin = np.cos(half), np.sin(half)
    # The camera looks along its -z, its x is to the right and its y up.
    inward = np.array([[cos, 0, -sin], [-cos, 0, -sin], [0, cos, -sin], [0, -cos, -sin], [0, 0, -1]])
    return inward @ rotation.T


def _beyond(rays: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """(ngeom,) bool: all corners of a geom, as seen from the camera, lie on the outer side of the same plane."""
    outside: np.ndarray = rays @ inward.T < 0
    return np.any(np.all(outside, axis=1), axis=1)


def _mirrors(
    model: Any, data: Any, eye: np.ndarray, drawn: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per reflective face that is drawn and turned toward the eye: a point, its normal, what bounds it as seen."""
    from mujoco import mjtGeom  # pyrefly: ignore[missing-module-attribute]

    material = model.geom_matid
    box, plane = mjtGeom.mjGEOM_BOX, mjtGeom.mjGEOM_PLANE
    reflective = drawn & (material >= 0) & (model.mat_reflectance[material] > 0)
    mirrors = []
    for geom in np.flatnonzero(reflective & np.isin(model.geom_type, (box, plane))):
        right, up, normal = data.geom_xmat[geom].reshape(3, 3).T
        width, depth, thickness = model.geom_size[geom] + MARGIN_M
        if model.geom_type[geom] == plane:
            mirrors.append((data.geom_xpos[geom], normal, np.empty((0, 3))))
            continue
        center = data.geom_xpos[geom] + (thickness - MARGIN_M) * normal
        if (eye - center) @ normal <= 0:
            continue
        face = [center + x * width * right + y * depth * up - eye for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        # Planes through the eye and the four edges, turned toward the middle of the face.
        inward = np.array([np.cross(face[i - 1], face[i]) for i in range(4)])
        inward *= np.sign(inward @ (center - eye))[:, None]
        mirrors.append((center, normal, inward))
    return mirrors


def hook_rendering(module: ModuleType) -> None:
    """Cull in every image that robosuite renders from now on, while ``ATLASVLA_LIBERO_CULL`` is 1.

    Args:
        module: ``robosuite.utils.binding_utils``, freshly imported.
    """
    import wrapt

    def render(wrapped: Any, context: Any, args: Any, kwargs: Any) -> Any:
        camera_id = kwargs.get("camera_id", args[2] if len(args) > 2 else None)
        width, height = (
            kwargs.get(name, args[i] if len(args) > i else None) for i, name in enumerate(("width", "height"))
        )
        if not read_switch(ENV_CULL) or camera_id is None or camera_id < 0 or width != height:
            return wrapped(*args, **kwargs)
        model, data = context.model._model, context.data._data
        hidden = out_of_sight(model, data, camera_id, np.asarray(context.vopt.geomgroup))
        groups = model.geom_group.copy()
        model.geom_group[hidden] = HIDDEN_GROUP
        try:
            return wrapped(*args, **kwargs)
        finally:
            model.geom_group[:] = groups

    wrapt.wrap_function_wrapper(module, "MjRenderContext.render", render)
