"""Folders as people type them, and what the operating system says when it does not let us write there."""

import errno
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

_FREE_SPACE = "free some space, or choose another disk"
_PERMISSIONS = "choose a folder that you can write to, or change its permissions"
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "choose a folder on another file system",
}
# Where LeRobot's training puts a policy: in a checkpoint, in the folder of a run, in that of its checkpoints.
_IN_A_RUN = ("pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model")
# LeRobot 0.6.1 hands a dataset's files to Hugging Face's reader, which takes these for patterns and chained URLs.
_PATTERNS = ("*", "?", "[", "]", "::")


def expand_home(settings: Any) -> Any:
    """Replace a leading ``~`` in the paths of a command's settings, as the shell does where it is not behind a ``=``.

    Args:
        settings: A dataclass of flags; paths, and texts that begin like one, alone or in lists.

    Returns:
        The same object.

    Raises:
        OSError: If the home folder is not known.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        expanded = [_expanded(one) for one in value] if isinstance(value, list) else _expanded(value)
        if expanded != value:
            setattr(settings, field.name, expanded)
    return settings


def _expanded(value: Any) -> Any:
    if not isinstance(value, (str, Path)) or not (str(value) == "~" or str(value).startswith("~/")):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError as error:
        raise FileNotFoundError(f"{value} can't be expanded: {error}") from error


class CheckpointNotFoundError(ValueError):
    """There is no checkpoint where one was named; the message says where it was looked for."""


def checkpoint_folder(path: Path, flag: str = "--checkpoint") -> Path:
    """Return the folder ``pretrained_model`` of a checkpoint, wherever above it a path points.

    Args:
        path: That folder, the checkpoint that has it inside (``checkpoints/last``), or the training run.
        flag: The flag that names it.

    Returns:
        The folder without links: ``last`` is one that training moves on.

    Raises:
        CheckpointNotFoundError: If there is none.
    """
    if not path.is_dir():
        raise CheckpointNotFoundError(f"{flag}={path} is not a folder.")
    for candidate in (path, *(path / inside for inside in _IN_A_RUN)):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    places = " nor its ".join(("it", *_IN_A_RUN))
    raise CheckpointNotFoundError(f"{flag}={path} is not a LeRobot checkpoint: neither {places} has a config.json.")


def existing_part(folder: Path) -> Path:
    """Return a folder that need not exist yet, or its innermost parent that does, which is on the same disk."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def pattern_in(folder: Path | str, flag: str) -> str:
    """Say what makes a dataset's folder unreadable for LeRobot: characters that its reader takes for a pattern.

    Args:
        folder: The folder, as it will be given to LeRobot.
        flag: The flag that names it.

    Returns:
        One sentence; empty if there is nothing.
    """
    found = [mark for mark in _PATTERNS if mark in os.path.abspath(folder)]
    if not found:
        return ""
    return (
        f"{flag}={folder} has {' and '.join(found)} in its path, which LeRobot's reader of datasets takes for a "
        "pattern; choose a folder without."
    )


def why_not(error: OSError, folder: Path | str, flag: str) -> str:
    """Explain in one sentence, without its full stop, why a folder can't be written, and what to change.

    Args:
        error: What the operating system says.
        folder: The folder.
        flag: The flag that names it.
    """
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
    advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return f"{flag}={folder} can't be written: {error.strerror or error}{where}{advice}"
