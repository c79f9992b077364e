"""Files of the evaluation: written whole or not at all, JSON with a row a line."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Lists in which every entry has a line of its own, though it is no object.
_ROWS = "rollout_rows"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file beside ``path`` that takes its place when the block ends well and is removed when it doesn't.

    The folder is made. The name keeps its ending, which writers of images and videos go by, and begins with a dot,
    as what a killed process may leave.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".partial-{path.name}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


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


def set_aside(folder: Path, entries: Sequence[Path] | None = None) -> Path | None:
    """Move what an earlier run left to a folder with its time, so that nothing is overwritten.

    Args:
        folder: Folder of the run.
        entries: What to move out of it; the whole folder if not given.

    Returns:
        Where it is now; None if there was nothing.
    """
    if not folder.exists() or entries == []:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    kept = folder.with_name(f"{folder.name}-{stamp}")
    if entries is None:
        return folder.rename(kept)
    kept.mkdir()
    for entry in entries:
        entry.rename(kept / entry.name)
    return kept
