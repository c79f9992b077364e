"""The checks of ``atlasvla-check`` that are about the machine, whatever it is to be used for.

Each returns what it found in one line, or raises :class:`CheckFailedError`. Imports are inside the functions: the first
lines should not wait for PyTorch, transformers or LIBERO.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lerobot_atlasvla.utils.errors import brief
from lerobot_atlasvla.utils.extras import MissingExtraError

DISTRIBUTION = "lerobot_policy_atlasvla"
# Packages of which ours decides, through others, what must be installed; in this order, then what it asks for itself.
SHOWN = ("lerobot", "torch", "torchvision", "transformers", "mujoco", "hf-libero", "robosuite")
_FOLLOWED = (DISTRIBUTION, "lerobot", "hf-libero")
_DRAW_SECONDS = 120
_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().std() > 0, "the image is empty"
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
renderer.close()
"""


class CheckFailedError(Exception):
    """Raised when a check of ``atlasvla-check`` fails; the message says what was found and how to fix it.

    Args:
        detail: What was found.
        fix: What to do about it; empty where ``detail`` says it already.
    """

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(f"{detail.rstrip('.')}. Fix: {fix}" if fix else detail)
        self.detail, self.fix = detail, fix


@contextlib.contextmanager
def failing_on(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors whose message says what to do into a failed check."""
    try:
        yield
    except errors as error:
        raise CheckFailedError(str(error)) from error


def explain(error: Exception) -> CheckFailedError:
    """Return what to show for an error that no check expected."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return CheckFailedError(
            f"not enough memory: {brief(error)}",
            "close what else uses it, or try --policy.backbone_dtype=bfloat16 or a smaller preset "
            "(--config_path=configs/policy/atlasvla_tiny.yaml)",
        )
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return CheckFailedError(
        f"{brief(error)}{place}", "not a fault atlasvla-check knows; please report this line and those above"
    )


def gib(size: int) -> str:
    """Return a number of bytes in GiB, for people."""
    return f"{size / 2**30:.1f} GiB"


def requirements() -> dict[str, Requirement]:
    """Return what the installed package requires on this platform, itself or through LeRobot and LIBERO, by name.

    LIBERO's are among them where it is installed. Empty if our package is not installed.
    """
    found: dict[str, Requirement] = {}
    direct: list[str] = []
    queue, seen = [(DISTRIBUTION, extra) for extra in ("", *(["libero"] if _has_libero() else []))], set()
    while queue:
        parent, extra = queue.pop(0)
        if parent not in _FOLLOWED or (parent, extra) in seen:
            continue
        seen.add((parent, extra))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for requirement in map(Requirement, importlib.metadata.requires(parent) or ()):
                if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                    continue
                name = canonicalize_name(requirement.name)
                known = found.setdefault(name, Requirement(name))
                known.specifier &= requirement.specifier
                known.extras |= requirement.extras
                queue += [(name, asked) for asked in ("", *requirement.extras)]
                direct += [name] if parent == DISTRIBUTION else []
    for requirement in found.values():
        if exact := [specifier for specifier in requirement.specifier if specifier.operator == "=="]:
            requirement.specifier = SpecifierSet(str(exact[0]))
    return {name: found[name] for name in dict.fromkeys((*SHOWN, *direct)) if name in found}


def check_python() -> str:
    """Check that the installed package allows this Python."""
    version, allowed = platform.python_version(), ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        allowed = importlib.metadata.metadata(DISTRIBUTION).get("Requires-Python") or ""
    if not SpecifierSet(allowed).contains(version, prereleases=True):
        raise CheckFailedError(
            f"{version}, needs {allowed}", "`python3.12 -m venv .venv && .venv/bin/pip install .` in the repository"
        )
    return f"{version} ({f'needs {allowed}' if allowed else 'any version'}) in {sys.prefix}"


def check_package(requirement: Requirement) -> str:
    """Check that a package is installed in a version that is allowed."""
    command = f"pip install '{requirement}'"
    allowed = f"needs {requirement.specifier}" if requirement.specifier else "any version"
    remark = " (LIBERO's success rates move with its version)" if requirement.name == "mujoco" else ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise CheckFailedError(f"not installed, {allowed}", command) from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise CheckFailedError(f"{version}, {allowed}{remark}", command)
    return f"{version} ({allowed})"


def check_plugin() -> str:
    """Check that LeRobot's commands find the policy by themselves: by the name of an installed distribution."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    if DISTRIBUTION not in sys.modules:
        raise CheckFailedError(
            f"LeRobot finds no installed distribution named {DISTRIBUTION}", "`pip install .` in the repository"
        )
    PreTrainedConfig.get_choice_class("atlasvla")
    return f"LeRobot finds {DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)} and its policy.type=atlasvla"


def describe_computer() -> str:
    """Return the CPU cores and the memory that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # ValueError: the word "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return f"{cores} cores, {gib(memory)} of memory"


def _has_libero() -> bool:
    return any(importlib.util.find_spec(module) for module in ("libero", "mujoco"))


def _without_libero() -> str:
    """Return why there is no simulator to check, or nothing if there is one."""
    if not sys.platform.startswith("linux"):
        return "not on this platform (Linux only): training works, rollouts in LIBERO do not"
    hint = f"not installed: training works, rollouts in LIBERO need `pip install '{DISTRIBUTION}[libero]'`"
    return "" if _has_libero() else hint


def check_gl() -> str:
    """Check that MuJoCo draws an image, in a process of its own: a bad driver takes the whole process with it."""
    if missing := _without_libero():
        return missing
    from lerobot_atlasvla.libero.gl import GlUnavailableError, choose_gl

    with failing_on(GlUnavailableError):
        backend = choose_gl()
    other = "osmesa" if backend == "egl" else "egl"
    fix = f"`MUJOCO_GL={other} atlasvla-check`; if that helps, keep MUJOCO_GL={other} in the environment"
    try:
        drawn = subprocess.run(
            [sys.executable, "-c", _DRAW], capture_output=True, text=True, check=False, timeout=_DRAW_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise CheckFailedError(f"{backend} draws nothing within {_DRAW_SECONDS} s", fix) from None
    if drawn.returncode:
        reason = (drawn.stderr.strip().splitlines() or [f"exit status {drawn.returncode}"])[-1]
        raise CheckFailedError(f"{backend} is installed but does not draw: {reason}", fix)
    return f"{backend or 'the default'} draws ({drawn.stdout.strip()})"


def check_assets() -> str:
    """Check that LIBERO's assets are complete and unchanged; reads all of them, whatever an earlier check found."""
    if missing := _without_libero():
        return missing
    from lerobot_atlasvla.libero.asset_digests import verify_assets
    from lerobot_atlasvla.libero.assets import ENV_ASSETS, INSTALL, libero_assets

    with failing_on(OSError, ValueError):
        assets = libero_assets()
    if assets.verification is None:
        return (
            f"STAND-IN scene in {assets.path}: libero_spatial only, drawn from primitives, success rates not "
            f"comparable with published ones (for LIBERO's own assets run `{INSTALL}`, or set {ENV_ASSETS}=FOLDER)"
        )
    verification = verify_assets(assets.path, trust_stamp=False)
    if verification.differing:
        unset = f"unset {ENV_ASSETS} and run " if assets.source == ENV_ASSETS else ""
        raise CheckFailedError(
            f"official assets in {assets.path} ({assets.source}) that are not all LIBERO's own: "
            f"{verification.problems} {assets.note}",
            f"{unset}`{INSTALL}`",
        )
    return f"official, {verification.files} files verified, in {assets.path} ({assets.source}) {assets.note}"


def check_libero() -> str:
    """Check that LIBERO can be imported and is ready to build environments."""
    if missing := _without_libero():
        return missing
    from lerobot_atlasvla.libero.setup import prepare_libero

    # robosuite has log handlers of its own, made when it is imported.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        with failing_on(OSError, ValueError, MissingExtraError):
            assets = prepare_libero()
        try:
            importlib.import_module("libero.libero.envs")
        except ImportError as error:
            raise CheckFailedError(
                f"LIBERO's environments can't be imported: {brief(error)}",
                f"pip install --force-reinstall '{requirements()['hf-libero']}'",
            ) from error
    return f"ready, on {assets.kind} assets"
