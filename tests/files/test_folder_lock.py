"""Two writers of one folder: the second is refused, nothing of the first is touched."""

import errno
import os
import time
from pathlib import Path

import pytest

from lerobot_atlasvla.files.folder_lock import FolderInUseError, FolderLock
from tests.helpers.forked import Forked, hold


def test_the_second_process_is_refused_and_the_third_after_the_first_was_killed_is_not(tmp_path):
    folder = tmp_path / "new/dataset"
    with Forked(hold, folder) as first:
        assert first.told() == "held"
        with pytest.raises(FolderInUseError, match=rf"writing to --root={folder}; wait"):
            FolderLock(folder, "--root")
    FolderLock(folder, "--root").release()


def test_a_process_that_the_killed_one_had_forked_holds_nothing(tmp_path):
    """A data loader's workers, for example, live on for seconds."""

    def hold_and_tell_of_the_fork(tell):
        lock = FolderLock(tmp_path / "a", "--root")
        child = os.fork()
        if child:
            tell(child)
        time.sleep(600)
        lock.release()

    with Forked(hold_and_tell_of_the_fork) as parent:
        child = int(parent.told())
    try:
        os.kill(child, 0)
        FolderLock(tmp_path / "a", "--root").release()
    finally:
        os.kill(child, 9)


def test_an_empty_folder_is_removed_in_the_end_and_a_full_one_is_not(tmp_path):
    lock = FolderLock(tmp_path / "a/b/c", "--root")
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path / "a/b/c", "--root")
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()
    lock = FolderLock(tmp_path / "a", "--root")
    (tmp_path / "a/file").touch()
    del lock
    assert (tmp_path / "a/file").exists()
    FolderLock(tmp_path / "a", "--root")


def test_a_folder_that_is_removed_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """mkdir found it there, and a moment later, when it looks what it is, its last holder has removed it."""
    mkdir, calls = os.mkdir, []

    def found_then_gone(path, *arguments):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        mkdir(path, *arguments)

    monkeypatch.setattr(os, "mkdir", found_then_gone)
    lock = FolderLock(tmp_path / "folder", "--root")
    assert (tmp_path / "folder").is_dir()
    lock.release()


@pytest.mark.parametrize("kind", ["file", "link that leads nowhere"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    if kind == "file":
        (tmp_path / "folder").touch()
    else:
        (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        FolderLock(tmp_path / "folder", "--root")


@pytest.mark.parametrize("kind", ["link that leads nowhere", "what can't be made"])
def test_a_folder_below_something_that_is_no_folder_is_an_error_and_no_endless_loop(tmp_path, kind):
    if kind == "link that leads nowhere":  # such as a scratch disk that is not mounted
        (tmp_path / "outputs").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"outputs|/proc"):
        FolderLock(tmp_path / "outputs/run" if kind == "link that leads nowhere" else Path("/proc/run"), "--root")
