"""One writer a folder: two processes that write the same dataset or cache would corrupt it."""

import os
import weakref
from contextlib import suppress
from pathlib import Path


class FolderInUseError(ValueError):
    """Another process is writing to the folder."""


class FolderLock:
    """Hold a folder for as long as this object lives, or until :meth:`release`; the kernel ends it with the process.

    The folder itself is locked (``flock``), so nothing is left in it or beside it. It is made if it does not exist, and
    removed again if it is still empty in the end. Without ``fcntl`` (Windows) nothing is locked.

    Args:
        folder: The folder to hold.
        flag: The flag that names it, for the message.

    Raises:
        FolderInUseError: If another process, or another lock of this one, holds it.
        OSError: If it can't be made or opened.
    """

    def __init__(self, folder: Path, flag: str) -> None:
        try:
            import fcntl
        except ImportError:
            self._end = lambda: None
            return
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # its last holder has just removed it
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise FolderInUseError(
                    f"Another process is writing to {flag}={folder}; wait for it, stop it, or choose another folder."
                ) from error
            if _is_still(folder, descriptor):
                break
            os.close(descriptor)
        self._end = weakref.finalize(self, _release, folder, descriptor)

    def release(self) -> None:
        """Let others write, before this object is gone; a second call does nothing."""
        self._end()


def _is_still(folder: Path, descriptor: int) -> bool:
    """Say whether the folder of that name is the locked one: its last holder may have removed it in between."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(folder: Path, descriptor: int) -> None:
    with suppress(OSError):  # usually: it is not empty
        folder.rmdir()
    os.close(descriptor)
