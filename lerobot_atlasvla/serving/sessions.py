"""Keep track of who is being served: a bounded number of sessions that expire."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from .rpc import RequestError


@dataclass
class _Entry[T]:
    value: T
    last_used_s: float


class Sessions[T]:
    """Hold what the server remembers of each client, by session id.

    Args:
        limit: Most sessions at a time. A new one never takes the place of another.
        idle_s: Seconds without a request after which a session is forgotten.
        clock: Seconds that only grow.
    """

    def __init__(self, limit: int, idle_s: float, clock: Callable[[], float] = time.monotonic):
        self._limit = limit
        self._idle_s = idle_s
        self._clock = clock
        self._entries: dict[str, _Entry[T]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, value: T, session: str | None = None) -> str:
        """Begin a session for a new client.

        Args:
            value: What to remember.
            session: Its id, if the transport gives one; otherwise one that can't be guessed is made.

        Returns:
            The id.

        Raises:
            RequestError: If there are too many.
        """
        self._forget_idle()
        session = secrets.token_urlsafe(32) if session is None else session
        if session not in self._entries and len(self._entries) >= self._limit:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The server has {self._limit} sessions, as many as it may (--max_sessions); unused ones are forgotten "
                f"after {self._idle_s:g} s (--session_idle_s).",
            )
        self._entries[session] = _Entry(value, self._clock())
        return session

    def get(self, session: str | None) -> T:
        """Return what is remembered of a client, which from now on is idle for 0 s.

        Raises:
            RequestError: If the id is unknown.
        """
        self._forget_idle()
        entry = self._entries.get(session or "")
        if entry is None:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND,
                f"The session is unknown: it was never opened, was closed, or was unused for {self._idle_s:g} s "
                "(--session_idle_s).",
            )
        entry.last_used_s = self._clock()
        return entry.value

    def close(self, session: str | None) -> None:
        """Forget a client, if it is known."""
        self._entries.pop(session or "", None)

    def _forget_idle(self) -> None:
        oldest_s = self._clock() - self._idle_s
        self._entries = {key: entry for key, entry in self._entries.items() if entry.last_used_s > oldest_s}
