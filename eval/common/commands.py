"""A command as a subprocess: its output shown or watched, and kept; its time and memory measured."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Importing the plugin imports LeRobot, which takes seconds.
    from lerobot_atlasvla.files.folder_lock import FolderLock

GIB = 2**30


@dataclass(frozen=True)
class Process:
    """Describe one process that has ended.

    Attributes:
        status: Exit status; negative if a signal ended it.
        wall_s: Seconds.
        cpu_s: Seconds of all its threads on a core; fewer than the cores could give where they had to wait.
        peak_gib: Most resident memory, GiB, mapped files included.
    """

    status: int
    wall_s: float
    cpu_s: float
    peak_gib: float


def measure(
    name: str,
    command: list[str],
    log: Path,
    environment: Mapping[str, str],
    watch: Callable[[bytes], object] | None = None,
    lock: FolderLock | None = None,
) -> Process:
    """Run one command, its output in ``log`` and on the terminal; a failing one is reported, not raised.

    Args:
        name: For the terminal.
        command: Program and arguments.
        log: File that gets what it prints.
        environment: All of its environment variables.
        watch: Gets the output as it comes, instead of the terminal.
        lock: Of a folder, which stays locked for as long as the command runs, even if this process is killed.
    """
    if watch is None:
        sys.stdout.write(f"\n=== {name}: {shlex.join(command)}\n")
        sys.stdout.flush()
    started = time.monotonic()
    with (
        log.open("wb") as copy,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=() if lock is None else lock.descriptors,
        ) as process,
    ):
        assert process.stdout is not None
        # read1 hands progress bars on as they come, without waiting for a line to end.
        while chunk := process.stdout.read1():  # type: ignore[attr-defined]
            copy.write(chunk)
            if watch is None:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                copy.flush()
                watch(chunk)
        # Over the child's whole life, in KiB on Linux. It never shows less than this process had when it started the
        # child, which is a tenth of what the full models take.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Process(
        status=process.returncode,
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_gib=usage.ru_maxrss * 1024 / GIB,
    )


def tool(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def offline() -> dict[str, str]:
    """Return the environment of every stage: none may need the network."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
