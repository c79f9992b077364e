"""Checks an assets folder for exactly LIBERO's files: SHA-256 digests, and a stamp that saves computing them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.environment import cache_root

logger = logging.getLogger(__name__)

#: Path and digest of every file of LIBERO's asset tree, in the format of ``sha256sum``.
MANIFEST = Path(__file__).with_name("libero_assets.sha256")
_MISSING = "missing"
_CHANGED = "changed"


@dataclass(frozen=True)
class Verification:
    """Comparison of the files of an assets folder with LIBERO's.

    Attributes:
        files: Number of files in LIBERO's asset tree.
        missing: Number of these that the folder lacks.
        changed: Number with another content.
        unreadable: Number that cannot be read.
        first: The first of the three above and what is wrong with it; empty if nothing is.
    """

    files: int
    missing: int = 0
    changed: int = 0
    unreadable: int = 0
    first: str = ""

    @property
    def differing(self) -> int:
        """Return the number of files that are not as LIBERO has them."""
        return self.missing + self.changed + self.unreadable

    @property
    def problems(self) -> str:
        """Counts by kind and the first file: ``1 missing of 584 files, first: textures/a.png (missing)``."""
        counts = {_MISSING: self.missing, _CHANGED: self.changed, "unreadable": self.unreadable}
        shown = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"{shown or 'none differ'} of {self.files} files" + (f", first: {self.first}" if self.first else "")

    def __str__(self) -> str:
        return f"{self.differing} of {self.files} files differ" if self.differing else "verified"


def read_manifest() -> dict[str, str]:
    """Return the digest of every file of LIBERO's asset tree, by its path relative to the assets folder."""
    lines = MANIFEST.read_text(encoding="utf-8").splitlines()
    entries = (line.split("  ", 1) for line in lines if not line.startswith("#"))
    return {path: digest for digest, path in entries}


def verify_assets(folder: Path, *, trust_stamp: bool = True) -> Verification:
    """Compare an assets folder with LIBERO's files; what else is in it does not matter.

    The result is kept in AtlasVLA's cache folder with the sizes and modification times of all files, and holds until
    one of them changes.

    Args:
        folder: The assets folder.
        trust_stamp: Whether an earlier result may be returned instead of reading about 420 MB.

    Returns:
        What was found. A folder that differs is no error here.
    """
    manifest = read_manifest()
    state = _state(folder, manifest)
    stamp = _stamp_file(folder)
    if trust_stamp and (known := _read_stamp(stamp, state)) is not None:
        return known
    found = _compare(folder, manifest)
    # Permissions may change without a trace in what the stamp records.
    if not found.unreadable:
        _write_stamp(stamp, {"folder": str(folder), "state": state, "found": asdict(found)})
    return found


def _compare(folder: Path, manifest: dict[str, str]) -> Verification:
    # Hashing releases the interpreter's lock, so threads share the work.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        flaws = pool.map(lambda item: _flaw(folder / item[0], item[1]), manifest.items())
        found = {path: flaw for path, flaw in zip(manifest, flaws, strict=True) if flaw}
    kinds = list(found.values())
    missing, changed = kinds.count(_MISSING), kinds.count(_CHANGED)
    first = next((f"{path} ({flaw})" for path, flaw in found.items()), "")
    return Verification(len(manifest), missing, changed, len(kinds) - missing - changed, first)


def _flaw(file: Path, digest: str) -> str:
    """Say what is wrong with a file; empty if nothing is."""
    try:
        with file.open("rb") as stream:
            return "" if hashlib.file_digest(stream, "sha256").hexdigest() == digest else _CHANGED
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    except OSError as error:
        return f"unreadable: {error.strerror or error}"


def _state(folder: Path, manifest: dict[str, str]) -> str:
    """A digest of what tells that a file may have changed: expected content, size and modification time."""
    state = hashlib.sha256()
    for path, digest in manifest.items():
        try:
            status = os.stat(folder / path)
            seen = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            seen = _MISSING
        state.update(f"{path} {digest} {seen}\n".encode())
    return state.hexdigest()


def _stamp_file(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_root() / f"assets-checked-{name}.json"


def _read_stamp(stamp: Path, state: str) -> Verification | None:
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
        return Verification(**content["found"]) if content["state"] == state else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_stamp(stamp: Path, content: dict[str, Any]) -> None:
    try:
        write_text(stamp, json.dumps(content))
    except OSError as error:
        logger.warning("LIBERO's assets will be checked in full again next time: cannot write %s (%s)", stamp, error)
