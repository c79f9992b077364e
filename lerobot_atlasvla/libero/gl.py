"""Choice of the off-screen OpenGL backend that MuJoCo renders with."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_LIBRARIES = {
    "egl": ("libEGL.so.1", "libEGL.so"),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),
    "glx": ("libGL.so.1", "libGL.so"),
}
_INSTALL = "apt-get install -y libosmesa6 libegl1 libgl1-mesa-dri libgles2"


class GlUnavailableError(RuntimeError):
    """No OpenGL library that MuJoCo could render with."""


def choose_gl() -> str:
    """Settle ``MUJOCO_GL`` before robosuite reads it: EGL if a driver answers, else OSMesa.

    Returns:
        The backend in use. Anywhere but on Linux the variable is left alone.

    Raises:
        GlUnavailableError: If the requested backend, or both of them, cannot be loaded (the message has the command
            that installs them).
    """
    requested = os.environ.get("MUJOCO_GL", "")
    if not sys.platform.startswith("linux"):
        return requested
    if requested:
        if requested not in _LIBRARIES:
            # robosuite replaces every other value by "egl" without a word.
            raise GlUnavailableError(
                f"MUJOCO_GL={requested!r}, but LIBERO renders with one of {', '.join(_LIBRARIES)}; "
                "unset MUJOCO_GL to let AtlasVLA choose"
            )
        if problem := _problem(requested):
            raise GlUnavailableError(
                f"MUJOCO_GL={requested!r} cannot work: {problem}. Install it with `{_INSTALL}`, "
                "or unset MUJOCO_GL to let AtlasVLA choose"
            )
        return requested
    # PyOpenGL serves one platform per process: another one than the environment asks for would fail at the first image.
    platform = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    candidates = [platform] if platform in ("egl", "osmesa") else ["egl", "osmesa"]
    problems = {backend: _problem(backend) for backend in candidates}
    for backend, problem in problems.items():
        if not problem:
            os.environ["MUJOCO_GL"] = backend
            return backend
    reasons = "; ".join(f"{backend}: {problem}" for backend, problem in problems.items())
    raise GlUnavailableError(
        f"no OpenGL library to render LIBERO with ({reasons}). Install one with `{_INSTALL}`; "
        "MUJOCO_GL=egl or MUJOCO_GL=osmesa forces a choice"
    )


def _problem(backend: str) -> str:
    """Say what keeps a backend from working; empty if nothing does."""
    library = _load(_LIBRARIES[backend])
    if library is None:
        return f"{_LIBRARIES[backend][0]} is not installed"
    if backend == "egl" and not _egl_has_device(library):
        return "libEGL is installed, but no driver (libgl1-mesa-dri, or a GPU's) offers a device"
    if backend == "glx" and not os.environ.get("DISPLAY"):
        return "it draws to a screen and DISPLAY is not set"
    return ""


def _load(names: tuple[str, ...], loader: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    for name in names:
        try:
            return loader(name)
        except OSError:
            continue
    return None


def _egl_has_device(library: ctypes.CDLL) -> bool:
    """Ask for devices only: a context opened here would not survive the fork of an environment's worker."""
    library.eglGetProcAddress.restype = ctypes.c_void_p
    library.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    count = ctypes.c_int(0)
    return bool(query(0, None, ctypes.byref(count))) and count.value > 0
