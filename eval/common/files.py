"""Files and folders of the evaluation: one writer a folder, JSON with a row a line, earlier runs kept."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from lerobot_atlasvla.files.folder_lock import FolderInUseError, FolderLock
from lerobot_atlasvla.utils.errors import first_line
from lerobot_atlasvla.utils.paths import why_not

# Lists in which every entry has a line of its own, though it is no object.
_ROWS = "rollout_rows"


@contextmanager
def only_writer(folder: Path, flag: str = "--output_dir") -> Iterator[FolderLock]:
    """Have a folder to oneself until the block ends; it is made, and removed again if it is still empty then.

    Args:
        folder: The folder.
        flag: The flag that names it, for the message.

    Yields:
        The lock.

    Raises:
        EvalError: If another process is writing to it, or it can't be made.
    """
    try:
        lock = FolderLock(folder, flag)
    except FolderInUseError as error:
        raise EvalError(str(error)) from error
    except OSError as error:
        raise EvalError(f"{why_not(error, folder, flag)}.") from error
    try:
        yield lock
    finally:
        lock.release()


def read_object(file: Path, writer: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        file: It must exist.
        writer: What writes such files, for the message.

    Raises:
        EvalError: If it holds something else, or bytes that are no text.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} instead of an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise EvalError(f"{file} is not what {writer} writes: {first_line(error, kind=True)}.") from error
    return content


class Recorded(dict[str, Any]):
    """Hold what a JSON file says; to look for what it lacks, as half-written and foreign ones do, is an error.

    Args:
        file: Where it is from, for the message.
        writer: What writes such files.
        values: What it holds.

    Raises:
        EvalError: In place of a ``KeyError``.
    """

    def __init__(self, file: Path, writer: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._file, self._writer = file, writer

    def __missing__(self, name: str) -> Any:
        raise EvalError(f"{self._file} is not what {self._writer} writes: it does not say {name!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Recorded, (self._file, self._writer, dict(self)))


def json_text(content: Mapping[str, Any]) -> str:
    """Return JSON with a line for each value, each object of a list and each rollout: small, and diffs stay readable.

    Nothing is indented. What holds neither objects in a list nor rollouts is a single line, however long it is.
    """
    return _text(content, "", top=True) + "\n"


def _text(value: Any, key: str, *, top: bool = False) -> str:
    if isinstance(value, Mapping) and (top or _is_tall(value)):
        entries = [f"{json.dumps(name, ensure_ascii=False)}: {_text(of, name)}" for name, of in value.items()]
        return "{\n" + ",\n".join(entries) + "\n}"
    if isinstance(value, (list, tuple)) and value and (key == _ROWS or _is_tall(value)):
        return "[\n" + ",\n".join(_text(one, "") for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _is_tall(value: Any) -> bool:
    """Say whether a value holds objects in a list, or rollouts."""
    if isinstance(value, Mapping):
        return _ROWS in value or any(map(_is_tall, value.values()))
    return isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) or _is_tall(one) for one in value)


def set_aside(folder: Path, entries: Sequence[Path]) -> Path | None:
    """Move what an earlier run left to a folder with its time, so that nothing is overwritten.

    Args:
        folder: Folder of the run, which this process has to itself.
        entries: What to move out of it.

    Returns:
        Where it is now; None if there was nothing.
    """
    if not entries:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    kept = folder.with_name(f"{folder.name}-{stamp}")
    kept.mkdir()
    for entry in entries:
        entry.rename(kept / entry.name)
    return kept
