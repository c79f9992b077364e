"""A process's own memory (Linux): without mapped files, which processes share and the kernel can drop."""

import threading
from types import TracebackType
from typing import Self

import psutil

from eval.common.commands import GIB

INTERVAL_S = 0.002
"""Seconds between two looks; a peak that is shorter can be missed."""


def private_gib() -> float:
    """This process's own memory now, GiB."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / GIB


class PrivateMemoryWatch:
    """Watches the process's own memory while something runs inside; a context manager.

    Attributes:
        before_gib: What the process had at the start.
        peak_gib: The most it had.
        after_gib: What it had at the end.
    """

    def __init__(self) -> None:
        self.before_gib = self.peak_gib = self.after_gib = private_gib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.peak_gib = max(self.peak_gib, private_gib())

    def __enter__(self) -> Self:
        self.before_gib = self.peak_gib = private_gib()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.after_gib = private_gib()
        self.peak_gib = max(self.peak_gib, self.after_gib)
