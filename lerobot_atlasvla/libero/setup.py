"""LIBERO without questions, patches or downloads that hang: config file, OpenGL backend, and assets (assets.py).

Everything here acts through the import hook that :mod:`lerobot_atlasvla.utils.libero_hook` registers, so that LeRobot's
own commands get it too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.assets import (
    ENV_ASSETS,
    INSTALL,
    LIBERO_PACKAGE,
    STAND_IN,
    LiberoAssets,
    libero_assets,
    libero_package,
)
from lerobot_atlasvla.libero.environment import read_switch
from lerobot_atlasvla.libero.gl import choose_gl
from lerobot_atlasvla.libero.patches import (
    camera_pose,
    deterministic_reset,
    displacement,
    frame_skipping,
    frustum_culling,
    render_quality,
)
from lerobot_atlasvla.libero.patches.deterministic_reset import ENV_DETERMINISTIC_RESET
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.patches.render_quality import chosen_render_quality
from lerobot_atlasvla.libero.standin.scene import SUITES
from lerobot_atlasvla.utils.extras import require

logger = logging.getLogger(__name__)

_MODULE = "libero.libero"
_ENVIRONMENTS = "libero.libero.envs.env_wrapper"
_SIMULATIONS = "robosuite.utils.binding_utils"

_hooked = False


def prepare_libero() -> LiberoAssets:
    """Import LIBERO ready to build environments.

    Returns:
        The assets in use.

    Raises:
        MissingExtraError: If hf-libero, or what patches it, is not installed.
        OSError: If LIBERO's config file is missing and cannot be written.
        GlUnavailableError: If nothing can render.
        ValueError: If ``ATLASVLA_LIBERO_ASSETS`` or ``ATLASVLA_LIBERO_RENDER_QUALITY`` has a value that is not allowed,
            or the asset packages are incomplete or changed.
    """
    require_libero()
    # The import runs both hooks. Calling them again repeats one that failed; otherwise it changes nothing.
    on_package(importlib.import_module(LIBERO_PACKAGE))
    _on_libero(importlib.import_module(_MODULE))
    return libero_assets()


def require_libero() -> None:
    """Raise :class:`MissingExtraError` unless the extra ``[libero]`` is installed."""
    for module in (LIBERO_PACKAGE, "wrapt"):
        require(module, "libero", "The LIBERO simulator (Linux only)")


def describe_simulator() -> dict[str, str]:
    """Return what a report must say about the simulator: versions, OpenGL backend, render quality and assets."""
    assets = libero_assets()
    versions = {name: _version(name) for name in ("mujoco", "robosuite", "hf-libero")}
    return versions | {
        "gl": choose_gl(),
        # The render quality, under the key that it has in the run folders, reports and datasets of all versions.
        "look": chosen_render_quality(),
        "assets": assets.label,
        "assets_source": assets.source,
        "assets_path": str(assets.path),
        "assets_note": assets.note,
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _config_file() -> Path:
    # As LIBERO has it: a "~" is expanded in the default only.
    return Path(os.environ.get("LIBERO_CONFIG_PATH", os.path.expanduser("~/.libero"))) / "config.yaml"


def _default_paths() -> dict[str, str]:
    root = libero_package()
    return {
        "benchmark_root": str(root),
        "bddl_files": str(root / "bddl_files"),
        "init_states": str(root / "init_files"),
        "datasets": str(root.parent / "datasets"),
        "assets": str(root / "assets"),
    }


def _write_config() -> None:
    """Write LIBERO's config file if there is none: LIBERO would ask on standard input instead."""
    file = _config_file()
    if file.exists():
        return
    _store_config(file, _default_paths())
    logger.info("Wrote LIBERO's config file %s with its default paths", file)


def _repair_config() -> None:
    """Point what leads nowhere in LIBERO's config file back to the installed package, keeping the old file.

    The file outlives the virtual environment it was written for; LIBERO would then miss its own task files. One that
    can't be read as what it should be is written anew.

    Raises:
        OSError: If the file can't be read or written.
    """
    import yaml

    file = _config_file()
    recorded, damage = None, ""
    try:
        recorded = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text
        damage = f": {' '.join(str(error).split())[:200]}"
    except OSError as error:
        raise OSError(
            f"LIBERO needs the config file {file}, which cannot be read ({error}); remove it, or set "
            "LIBERO_CONFIG_PATH to another folder"
        ) from error
    if not isinstance(recorded, dict):
        kept = _keep(file)
        _store_config(file, _default_paths())
        logger.warning(
            "LIBERO's config file %s was damaged%s. It now has the default paths; the old file is %s",
            file,
            damage,
            kept,
        )
        return
    stale = {
        key: path
        for key, path in _default_paths().items()
        # Nothing of ours needs the folders of data sets and assets to exist.
        if key in ("benchmark_root", "bddl_files", "init_states") and not Path(str(recorded.get(key))).is_dir()
    }
    if not stale:
        return
    kept = _keep(file)
    _store_config(file, {key: str(path) for key, path in (recorded | stale).items()})
    logger.warning(
        "LIBERO's config file %s named folders that do not exist (%s); they now point to the installed package. "
        "The old file is %s",
        file,
        ", ".join(stale),
        kept,
    )


def _keep(file: Path) -> Path:
    """Copy LIBERO's config file aside before it is changed."""
    kept = file.with_name("config.yaml.bak")
    shutil.copyfile(file, kept)
    return kept


def _store_config(file: Path, paths: dict[str, str]) -> None:
    try:
        # A JSON string is a YAML string as well, whatever characters the path has.
        write_text(file, "".join(f"{key}: {json.dumps(path)}\n" for key, path in paths.items()))
    except OSError as error:
        raise OSError(
            f"LIBERO needs the config file {file}, which cannot be written ({error}); "
            "set LIBERO_CONFIG_PATH to a writable folder"
        ) from error


def on_package(_package: ModuleType) -> None:
    """Prepare the rest of LIBERO's import. Runs when the package ``libero`` is imported, before what is in it.

    LIBERO reads its config file, or asks questions, when ``libero.libero`` is imported. Environment workers start from
    a fresh interpreter that knows no plugin, so they preload it.

    Raises:
        OSError: If LIBERO's config file is missing and cannot be written.
    """
    import wrapt

    global _hooked
    if not _hooked:
        _hooked = True
        if "forkserver" in multiprocessing.get_all_start_methods():
            # "__main__" is the default content, and what makes a script's own classes known to its workers.
            multiprocessing.set_forkserver_preload(["__main__", "lerobot_atlasvla"])
        wrapt.register_post_import_hook(_on_libero, _MODULE)
        wrapt.register_post_import_hook(_on_environments, _ENVIRONMENTS)
        wrapt.register_post_import_hook(_on_simulations, _SIMULATIONS)
    _write_config()


def _on_libero(module: ModuleType) -> None:
    """Settle the assets and OpenGL of ``libero.libero``, before anything asks it for assets or imports robosuite."""
    _repair_config()
    choose_gl()
    # Raise now what would otherwise be raised in the middle of a run.
    chosen_render_quality()
    read_switch(ENV_CULL)
    read_switch(ENV_DETERMINISTIC_RESET)
    frame_skipping.render_every()
    frame_skipping.render_cameras()
    camera_pose.CameraShift.from_env()
    displacement.displace_cm_from_env()
    # The variable LIBERO keeps its own answer in.
    vars(module)["_assets_path_cache"] = str(libero_assets().path)


def _on_environments(module: ModuleType) -> None:
    """Make a task that needs objects the stand-in does not draw fail with a reason instead of a missing file."""
    import wrapt

    def build(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except FileNotFoundError as error:
            assets = libero_assets()
            if assets.kind != STAND_IN or not str(error.filename).startswith(str(assets.path)):
                raise
            raise FileNotFoundError(
                f"this task needs {Path(error.filename).name}, which the built-in stand-in scene does not draw: it "
                f"covers {', '.join(SUITES)} only. For other suites run `{INSTALL}`, or set {ENV_ASSETS} to LIBERO's "
                "assets folder"
            ) from error

    wrapt.wrap_function_wrapper(module, "ControlEnv.__init__", build)
    frame_skipping.hook_control(module)


def _on_simulations(module: ModuleType) -> None:
    render_quality.hook_simulations(module)
    camera_pose.hook_simulations(module)
    frustum_culling.hook_rendering(module)
    frame_skipping.hook_rendering(module)


def on_lerobot_environments(module: ModuleType) -> None:
    """Patch LeRobot's LIBERO environments. Runs when ``lerobot.envs.libero`` has been imported."""
    displacement.hook_environments(module)
    deterministic_reset.hook_environments(module)
    frame_skipping.hook_environments(module)
