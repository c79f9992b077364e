"""The command line that the evaluation tools share."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eval.common.errors import EvalError
from eval.common.former_flags import with_present_names
from lerobot_atlasvla.utils import cli


def run_command(
    name: str,
    config: type[Any],
    body: Callable[[Any, str], int | None],
    argv: Sequence[str] | None = None,
    *,
    again: str | None = None,
) -> int:
    """Run a command of the evaluation: former flags still work, and the body gets the command that repeats it.

    Args:
        name: Module, such as ``eval.run``.
        config: Dataclass of the flags.
        body: Does the work with the settings and the command that repeats it; returns an exit status, None for 0.
        argv: Arguments instead of ``sys.argv[1:]``.
        again: What to tell after a full disk or an interruption, where the work can be continued.

    Returns:
        Exit status: that of ``body``, 1 for an :class:`EvalError` or an ``OSError``, 2 for a flag that does not parse,
        130 when interrupted and ``again`` is given.
    """
    arguments = with_present_names(config, sys.argv[1:] if argv is None else argv)
    words = ["python", "-m", name]
    command = shlex.join([*words, *arguments])
    return cli.run_command(
        name,
        config,
        lambda settings: body(settings, command),
        arguments,
        errors=(EvalError, OSError),
        again=again,
        program=" ".join(words),
    )


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, which a job scheduler sends, end the run as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
