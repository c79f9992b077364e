"""The items of ``atlasvla-check`` that are about the machine, whatever it is to be used for.

Each returns what it found in one line, or raises :class:`CheckFailedError`. Imports are inside the functions: the first
lines should not wait for PyTorch, transformers or LIBERO.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import subprocess
import sys
import traceback
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

DISTRIBUTION = "lerobot_policy_atlasvla"
# Packages of which ours decides, through others, what must be installed; in this order, then what it asks for itself.
SHOWN = ("lerobot", "torch", "torchvision", "transformers", "mujoco", "hf-libero", "robosuite")
_FOLLOWED = ("lerobot", "hf-libero")
_REMARKS = {"mujoco": " (LIBERO's success rates move with its version)"}
_NOT_HERE = "not on this platform (Linux only): training works, rollouts in LIBERO do not"
_DRAW_SECONDS = 120
_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().std() > 0, "the picture is empty"
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
renderer.close()
"""


class CheckFailedError(Exception):
    """An item that does not hold.

    Args:
        detail: What was found.
        fix: What to do about it; empty where ``detail`` says it already.
    """

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix


def explain(error: Exception) -> CheckFailedError:
    """What to show for an error that no check expected."""
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


def brief(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def requirements() -> dict[str, Requirement]:
    """What the installed package requires, directly or through LeRobot and LIBERO, by name; its own metadata say so.

    Empty if it is not installed. Packages that are not required on this platform are left out.
    """
    found: dict[str, Requirement] = {}
    direct: list[str] = []
    seen: set[tuple[str, str]] = set()
    queue = [(DISTRIBUTION, "")]
    while queue:
        parent, extra = queue.pop()
        for requirement in _requires(parent, extra):
            name = canonicalize_name(requirement.name)
            if parent == DISTRIBUTION:
                direct.append(name)
            known = found.setdefault(name, Requirement(name))
            known.specifier &= requirement.specifier
            known.extras |= requirement.extras
            if name in _FOLLOWED:
                wanted = {(name, asked) for asked in ("", *requirement.extras)} - seen
                seen |= wanted
                queue += sorted(wanted)
    for requirement in found.values():
        if exact := [specifier for specifier in requirement.specifier if specifier.operator == "=="]:
            requirement.specifier = SpecifierSet(str(exact[0]))
    return {name: found[name] for name in dict.fromkeys((*SHOWN, *direct)) if name in found}


def _requires(distribution: str, extra: str) -> list[Requirement]:
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in lines]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": extra})]


def check_python() -> str:
    """Whether this Python is one that the installed package allows."""
    version = platform.python_version()
    try:
        allowed = importlib.metadata.metadata(DISTRIBUTION).get("Requires-Python") or ""
    except importlib.metadata.PackageNotFoundError:
        return f"{version} in {sys.prefix}"
    if not SpecifierSet(allowed).contains(version, prereleases=True):
        raise CheckFailedError(
            f"{version}, needs {allowed}", "`python3.12 -m venv .venv && .venv/bin/pip install .` in the repository"
        )
    return f"{version} (needs {allowed}) in {sys.prefix}"


def check_package(requirement: Requirement) -> str:
    """Whether a package is installed in a version that is allowed."""
    command = f"pip install '{requirement}'"
    allowed = f"needs {requirement.specifier}" if requirement.specifier else "any version"
    remark = _REMARKS.get(requirement.name, "")
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise CheckFailedError(f"not installed, {allowed}", command) from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise CheckFailedError(f"{version}, {allowed}{remark}", command)
    return f"{version} ({allowed})"


def check_plugin() -> str:
    """Whether LeRobot's commands find the policy by themselves: by the name of an installed distribution."""
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
    """CPU cores and memory that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # ValueError: the word "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return f"{cores} cores, {gib(memory)} of memory"


def check_gl() -> str:
    """Whether MuJoCo draws a picture. In a process of its own: a bad driver takes the whole process with it."""
    from lerobot_atlasvla.sim.gl import GlUnavailableError, choose_gl

    try:
        backend = choose_gl()
    except GlUnavailableError as error:
        raise CheckFailedError(str(error)) from error
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
    """Whether LIBERO's assets are complete and unchanged. Reads all of them, whatever an earlier check found."""
    if not sys.platform.startswith("linux"):
        return _NOT_HERE
    from lerobot_atlasvla.sim.asset_digests import verify_assets
    from lerobot_atlasvla.sim.assets import ENV_ASSETS, INSTALL, libero_assets

    try:
        assets = libero_assets()
    except (OSError, ValueError) as error:
        raise CheckFailedError(str(error)) from error
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
    """Whether LIBERO can be imported and is ready to build environments."""
    if not sys.platform.startswith("linux"):
        return _NOT_HERE
    from lerobot_atlasvla.sim.setup import prepare_libero

    # robosuite has log handlers of its own, made when it is imported.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            assets = prepare_libero()
        except (OSError, ValueError) as error:
            raise CheckFailedError(str(error)) from error
        try:
            importlib.import_module("libero.libero.envs")
        except ImportError as error:
            raise CheckFailedError(
                f"LIBERO's environments can't be imported: {brief(error)}",
                f"pip install --force-reinstall '{requirements()['hf-libero']}'",
            ) from error
    return f"ready, on {assets.kind} assets"


def gib(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**30:.1f} GiB"
