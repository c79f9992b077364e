"""Files and folders that are written beside their place and then take it, so that nobody ever finds half of one."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .folder_lock import FolderInUseError, FolderLock

SCRATCH = ".atlasvla-partial-"
"""How the names of the folders begin in which things are written; whoever looks for content ignores them."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file or a folder that takes the place of ``path`` when the block ends well.

    It has the same name, in a scratch folder beside ``path``; the folder above is made. What was there before stays if
    the block fails, and is whole if the machine loses power. The files get the mode of any new file, whatever wrote
    them. What killed processes left there, of this path or of others, is removed first, but nothing that a living
    process is writing.

    Args:
        path: A file, or a folder that does not exist or is empty.

    Raises:
        FileExistsError: If ``path`` is a folder with something in it, possibly of another process that was quicker.
        OSError: If something can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with _scratch(path.parent) as folder:
        mode = _mode_of_new_files(folder)
        scratch = folder / path.name
        yield scratch
        for file in (scratch, *scratch.rglob("*")) if scratch.is_dir() else (scratch,):
            if file.is_file():
                file.chmod(mode)  # first: what was copied may be read-only
            sync(file)
        _take_place(scratch, path)
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, UTF-8; its folder is made."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Remove what :func:`replacing` left in a folder where it was killed."""
    for leftover in folder.glob(f"{SCRATCH}*"):
        with suppress(FolderInUseError, OSError):  # it is being written, was just removed, or is another user's
            lock = FolderLock(leftover, "")
            # Where nothing can be locked, nobody knows.
            if lock.descriptors:
                shutil.rmtree(leftover, ignore_errors=True)
            lock.release()


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of entries, when this returns.

    Raises:
        OSError: If a file can't be written in the end: the disk is full, for example.
    """
    if path.is_dir():
        # Nothing is lost where a folder can't be opened (Windows) or synchronized (some network file systems).
        with suppress(OSError):
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def _take_place(scratch: Path, path: Path) -> None:
    try:
        os.replace(scratch, path)
    except OSError as error:
        # POSIX lets a system say either; Linux says ENOTEMPTY, which Python has no class for.
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(errno.EEXIST, "exists and is not empty", str(path)) from error
        raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A new folder that is locked, which tells that its writer is alive, and that is removed in the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
        try:
            lock = FolderLock(folder, "")
            break
        except FolderInUseError:
            continue  # taken for a leftover before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _mode_of_new_files(folder: Path) -> int:
    """Return the mode that the umask gives a new file, by making one: reading the umask changes it for a moment."""
    probe = folder / "probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode
