"""Work at others' pace, given up when it stalls: a server may answer, and still never end."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class StalledError(OSError):
    """Work came to no end, and hardly moved on, for too long."""


def with_patience[T](
    work: Callable[[], T], *, seconds: float, progress: Callable[[], int] | None = None, least: int = 1
) -> T:
    """Do some work, and give it up when it stalls.

    It runs in a thread of its own, which is abandoned then: a read that waits for a byte a second can't be stopped.

    Args:
        work: What to do.
        seconds: Longest time without an end or progress, s.
        progress: Tells how far it has come, such as the bytes on disk; without it, ``seconds`` are for all of the work.
        least: By how much ``progress`` must grow for the time to start again.

    Returns:
        What ``work`` returned; what it raised is raised.

    Raises:
        StalledError: If the time is up.
    """
    done = threading.Event()
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            outcome["error"] = error
        finally:
            done.set()

    threading.Thread(target=run, name="atlasvla-patience", daemon=True).start()
    reached = progress() if progress else 0
    # In parts, so that progress is seen soon after it is made.
    parts = 20
    waited = 0
    while not done.wait(seconds / parts):
        waited += 1
        if progress and progress() - reached >= least:
            reached, waited = progress(), 0
        elif waited >= parts:
            moved = f"less than {least} bytes came" if progress else "no end"
            raise StalledError(f"stalled: {moved} within {seconds:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, 0 if there is none; files may come and go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += 0 if file.is_symlink() else file.stat().st_size
        except OSError:
            continue
    return total
