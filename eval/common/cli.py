"""The command line that the evaluation tools share."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import draccus
from draccus.utils import DecodingError

from eval.common.errors import EvalError
from eval.common.former_flags import with_present_names
from lerobot_atlasvla.utils.paths import expand_home


def run_command(
    name: str,
    config: type[Any],
    body: Callable[[Any, str], int | None],
    argv: Sequence[str] | None = None,
    *,
    again: str = "",
) -> int:
    """Parse flags, do the work, and turn what a user can put right into one line and an exit status.

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
    try:
        settings = expand_home(draccus.parse(config, args=arguments, prog=f"python -m {name}"))
    except (DecodingError, OSError) as error:
        sys.stderr.write(f"{name}: {error} (see --help)\n")
        return 2
    try:
        return body(settings, shlex.join(["python", "-m", name, *arguments])) or os.EX_OK
    except EvalError as error:
        sys.stderr.write(f"{name}: {error}\n")
    except OSError as error:
        sys.stderr.write(f"{name}: {error}{again and f'. {again}'}\n")
    except KeyboardInterrupt:
        if not again:
            raise
        sys.stderr.write(f"{name}: interrupted. {again}\n")
        return 130
    return 1


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
