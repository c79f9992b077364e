"""The error that users can put right, and checks of flags that several tools share."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lerobot_atlasvla.utils import setting_checks

LARGEST_SEED = 2**32 - 1
"""Of random numbers, as NumPy takes it."""


class EvalError(Exception):
    """Reports what a user can put right; the message says what is wrong and what to change."""


check_at_least = partial(setting_checks.check_at_least, EvalError)
check_at_most = partial(setting_checks.check_at_most, EvalError)
check_in_range = partial(setting_checks.check_in_range, EvalError)


def check_report_name(name: str, reports: object) -> None:
    """Refuse a ``--name`` that is not the name of one folder inside ``--reports``.

    Raises:
        EvalError: Naming the flag and its value.
    """
    if name in ("", ".", "..") or os.path.basename(name) != name:
        raise EvalError(f"--name={name!r} must be the name of a folder inside --reports={reports}.")


def check_labels(flag: str, labels: Sequence[str]) -> None:
    """Refuse names of runs that can't be told apart, or that no cell of a Markdown table can hold.

    Raises:
        EvalError: Naming the flag and its value.
    """
    unfit = any(not label.strip() or "|" in label or "\n" in label for label in labels)
    if unfit or len(set(labels)) < len(labels):
        raise EvalError(
            f"--{flag}={list(labels)} must differ from each other, not be empty, and have no line ends and no '|'."
        )


def check_output_dir(folder: Path, marker: str, kind: str) -> None:
    """Refuse an ``--output_dir`` that is a file, or holds something else than an earlier command of this kind left.

    Args:
        folder: It need not exist.
        marker: File that such a folder has.
        kind: What it is then, for the message.

    Raises:
        EvalError: Naming the folder and what it holds.
    """
    if folder.exists() and not folder.is_dir():
        raise EvalError(f"--output_dir={folder} is a file; it must be a folder.")
    if not folder.exists() or (folder / marker).exists():
        return
    # A name with a dot is what a command killed in its first moment may leave.
    if found := sorted(entry.name for entry in folder.iterdir() if entry.name[0] != "."):
        raise EvalError(
            f"--output_dir={folder} holds something that is no {kind} ({', '.join(found[:3])}); choose a new folder."
        )
