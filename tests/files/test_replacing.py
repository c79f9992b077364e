"""Files and folders appear whole or not at all, as readable as any, and what killed writers left is cleared away."""

import errno
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lerobot_atlasvla.files import folder_lock
from lerobot_atlasvla.files.replacing import SCRATCH, replacing, write_text
from tests.helpers.forked import Forked


def write_and_wait(path: Path, tell) -> None:
    """Write half of a file and wait."""
    with replacing(path) as scratch:
        scratch.write_text("half of it")
        tell("writing")
        time.sleep(600)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def fail_halfway(path: Path) -> None:
    with replacing(path) as scratch:
        assert scratch.name == path.name
        scratch.write_text("half of it")
        raise OSError("full")


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path):
    file = tmp_path / "run[2]/picture.png"
    write_text(file, "before")
    with pytest.raises(OSError, match="full"):
        fail_halfway(file)
    assert file.read_text() == "before"
    assert names(file.parent) == ["picture.png"]
    with replacing(file) as scratch:
        scratch.write_text("after")
    assert file.read_text() == "after"
    assert names(file.parent) == ["picture.png"]


def test_a_folder_appears_whole_and_replaces_none_that_has_something_in_it(tmp_path):
    folder = tmp_path / "kept"
    with replacing(folder) as scratch:
        (scratch / "deep").mkdir(parents=True)
        (scratch / "deep/file").write_text("one")
        assert not folder.exists()
    assert (folder / "deep/file").read_text() == "one"
    with pytest.raises(FileExistsError, match="not empty"), replacing(folder) as scratch:  # noqa: PT012
        scratch.mkdir()
        (scratch / "other").touch()
    assert names(tmp_path) == ["kept"]
    assert names(folder) == ["deep"]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
def test_files_have_the_mode_of_any_new_file_whatever_wrote_them(tmp_path, mask):
    with umask(mask):
        with replacing(tmp_path / "private") as scratch:
            os.close(os.open(scratch, os.O_CREAT | os.O_WRONLY, 0o600))
        with replacing(tmp_path / "folder") as scratch:
            scratch.mkdir()
            os.close(os.open(scratch / "open", os.O_CREAT | os.O_WRONLY, 0o666))
            (scratch / "open").chmod(0o777)
    for file in (tmp_path / "private", tmp_path / "folder/open"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    with Forked(write_and_wait, file) as living:
        assert living.told() == "writing"
        with Forked(write_and_wait, file) as killed:
            assert killed.told() == "writing"
        assert killed.wait() == -signal.SIGKILL
        assert len(names(tmp_path)) == 3
        assert file.read_text() == "before"
        write_text(file, "after")
        (left,) = tmp_path.glob(f"{SCRATCH}*")
        assert (left / "file").read_text() == "half of it"
        assert file.read_text() == "after"
    write_text(tmp_path / "other", "text")
    assert names(tmp_path) == ["file", "other"]


def test_where_nothing_can_be_locked_files_are_written_and_nothing_of_others_is_removed(tmp_path, monkeypatch):
    def can_not_lock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    other = tmp_path / f"{SCRATCH}other"
    other.mkdir()
    monkeypatch.setattr(folder_lock.fcntl, "flock", can_not_lock)
    write_text(tmp_path / "file", "text")
    assert names(tmp_path) == [other.name, "file"]
    monkeypatch.setattr(folder_lock, "fcntl", None)
    write_text(tmp_path / "file", "more")
    assert names(tmp_path) == [other.name, "file"]


def test_many_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    def write(letter: str, tell) -> None:
        for _ in range(50):
            write_text(tmp_path / "file", letter * 1000)

    with Forked(write, "a") as one, Forked(write, "b") as other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert (tmp_path / "file").read_text() in ("a" * 1000, "b" * 1000)
    assert names(tmp_path) == ["file"]


def test_what_was_copied_read_only_is_written_all_the_same(tmp_path, monkeypatch):
    """Only its owner's own rights count where nobody is root."""
    writable = []
    monkeypatch.setattr(
        "lerobot_atlasvla.files.replacing.sync", lambda file: writable.append(bool(file.stat().st_mode & 0o200))
    )
    with replacing(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "file").touch()
        (scratch / "file").chmod(0o444)
    assert writable
    assert all(writable)
