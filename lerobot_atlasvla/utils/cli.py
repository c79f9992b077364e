"""The command line that all commands share: what a user can put right is one line and an exit status."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from draccus.utils import ParsingError

from .flags import parse_flags
from .paths import expand_home

AGAIN = "Run the same command again to continue."
"""Told after an interruption of a command that goes on where it was stopped."""

Errors = type[Exception] | tuple[type[Exception], ...]


class UsageError(Exception):
    """Reports a flag or value that can't work; the message is one line."""


def log_to_terminal(*loggers: str) -> None:
    """Let all warnings reach the terminal, and what these loggers tell of their progress (INFO)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in loggers:
        logging.getLogger(name).setLevel(logging.INFO)


def run_command(
    name: str,
    config: type[Any],
    body: Callable[[Any], int | None],
    argv: Sequence[str] | None = None,
    *,
    errors: Errors,
    again: str | None = None,
    program: str | None = None,
) -> int:
    """Parse flags, do the work, and turn what a user can put right into one line and an exit status.

    Args:
        name: Of the command, at the beginning of its messages.
        config: Dataclass of the flags.
        body: Does the work with the settings; returns an exit status, None for 0.
        argv: Arguments instead of ``sys.argv[1:]``.
        errors: See :func:`exit_status`.
        again: See :func:`exit_status`.
        program: How the command is typed, if not by its name.

    Returns:
        Exit status, as :func:`exit_status`.
    """

    def work() -> int | None:
        try:
            arguments = sys.argv[1:] if argv is None else argv
            settings = expand_home(parse_flags(config, arguments, program or name))
        except (ParsingError, OSError) as error:
            raise UsageError(error) from error
        return body(settings)

    return exit_status(name, work, errors=errors, again=again)


def exit_status(name: str, work: Callable[[], int | None], *, errors: Errors, again: str | None = None) -> int:
    """Do the work of a command and return its exit status; errors that a user can put right become one line.

    Args:
        name: Of the command, at the beginning of its messages.
        work: Returns an exit status, None for 0.
        errors: What a user can put right. Other errors keep their traceback.
        again: What to tell after an interruption, and after an ``OSError`` among ``errors``, such as how to go on. An
            interruption is raised if not given.

    Returns:
        Exit status: that of ``work``, 1 for one of ``errors``, 2 for a :class:`UsageError`, 130 when interrupted.
    """
    try:
        return work() or os.EX_OK
    except UsageError as error:
        sys.stderr.write(f"{name}: {error} (see --help)\n")
        return 2
    except errors as error:
        hint = f". {again}" if again and isinstance(error, OSError) else ""
        sys.stderr.write(f"{name}: {error}{hint}\n")
        return 1
    except KeyboardInterrupt:
        if again is None:
            raise
        sys.stderr.write(f"{name}: interrupted. {again}".rstrip() + "\n")
        return 130
