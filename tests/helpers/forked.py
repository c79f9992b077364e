"""Work in a forked process, which starts at once: it has everything imported already."""

import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from lerobot_atlasvla.files.folder_lock import FolderLock


def _bars(kind: type[tqdm]) -> list[type[tqdm]]:
    """Return a class of bars and those made of it, each of which may have a lock of its own."""
    return [kind, *(bar for made in kind.__subclasses__() for bar in _bars(made))]


class Forked:
    """A process that runs a function, and is killed when the block ends.

    Args:
        work: What it runs, with these arguments and ``tell``, a function that sends a line to :meth:`told`.
        *arguments: For ``work``.
    """

    def __init__(self, work: Callable[..., object], *arguments: Any) -> None:
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            # PyTorch's threads are not in the child, which does nothing that needs them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(reads)
                # tqdm's lock is shared with forked processes: one killed while it draws a bar would keep it for good.
                for bar in _bars(tqdm):
                    bar.set_lock(threading.RLock())
                work(*arguments, lambda line: os.write(writes, f"{line}\n".encode()))
                status = 0
            except SystemExit as end:
                status = end.code
            except BaseException:  # noqa: BLE001 (it goes no further)
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writes)
        self._lines = os.fdopen(reads)
        self._status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._lines.close()

    def told(self) -> str:
        """Wait for the next line; empty when the process has ended."""
        return self._lines.readline().strip()

    def kill(self) -> int:
        """Kill it if it still runs; return its exit status, negative for a signal."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Return its exit status, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def hold(folder: Path, tell: Callable[[object], object]) -> None:
    """Hold a folder until it is killed."""
    lock = FolderLock(folder, "--root")
    tell("held")
    time.sleep(600)
    lock.release()
