"""One writer a folder: two processes that write the same dataset or cache would corrupt it."""

import errno
import os
import stat
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What file systems answer that can't lock: network ones of clusters, mostly.
_CAN_NOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
# How often a folder may vanish while it is taken, before something else is the matter.
_ATTEMPTS = 100


class FolderInUseError(ValueError):
    """Another process is writing to the folder."""


class FolderLock:
    """Hold a folder for as long as this object lives, or until :meth:`release`; the kernel ends it with the process.

    The folder itself is locked (``flock``), so nothing is left in it or beside it. If it does not exist, it is made,
    and all above it; if it is empty in the end, it is removed. A process forked meanwhile holds nothing. On Windows,
    and on file systems that can't lock, nobody is kept out.

    Args:
        folder: The folder to hold.
        flag: The flag that names it, for the message.

    Attributes:
        descriptors: Of the locked folder; a command that inherits them holds it as well. Empty where nothing is locked.

    Raises:
        FolderInUseError: If another process, or another lock of this one, holds it.
        OSError: If it can't be made or opened.
    """

    def __init__(self, folder: Path, flag: str) -> None:
        self.descriptors: tuple[int, ...] = ()
        self._end = lambda: None
        left = _ATTEMPTS
        made = [parent for parent in folder.absolute().parents if not parent.exists()]
        while fcntl is not None:
            left -= 1
            try:
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if left <= 0:  # a folder above it that can't be made, such as /proc/run
                    raise
                continue  # its last holder has just removed it
            except FileExistsError:
                if _is_something_else(folder) or left <= 0:  # a folder above it is a link that leads nowhere
                    raise
                continue  # the same, between finding it there and looking what it is
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _CAN_NOT_LOCK:
                    return
                if not isinstance(error, BlockingIOError):
                    raise
                raise FolderInUseError(
                    f"Another process is writing to {flag}={folder}; wait for it, stop it, or choose another folder."
                ) from error
            if _is_still(folder, descriptor):
                self.descriptors = (descriptor,)
                self._end = weakref.finalize(self, _release, (folder.absolute(), *made), descriptor)
                _held.add(self)
                return
            os.close(descriptor)

    def release(self) -> None:
        """Let others write, before this object is gone; a second call does nothing."""
        self._end()

    def _let_go(self) -> None:
        """In a forked process: close what was inherited, which would hold the folder after the parent's death."""
        if isinstance(self._end, weakref.finalize) and self._end.detach():
            os.close(*self.descriptors)


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _let_go_all() -> None:
    for lock in list(_held):
        lock._let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_all)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Say whether the folder of that name is the locked one: its last holder may have removed it in between."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_something_else(folder: Path) -> bool:
    """Say whether something that is no folder has that name, a link that leads nowhere included."""
    try:
        return not stat.S_ISDIR(folder.lstat().st_mode)
    except FileNotFoundError:
        return False


def _release(folders: tuple[Path, ...], descriptor: int) -> None:
    with suppress(OSError):  # usually: it is not empty
        for folder in folders:
            folder.rmdir()
    os.close(descriptor)
