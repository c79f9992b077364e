"""Two writers of one folder: the second is refused, nothing of the first is touched."""

import subprocess
import sys

import pytest

from lerobot_atlasvla.files.folder_lock import FolderInUseError, FolderLock

HOLD = (
    "import sys; from pathlib import Path; from lerobot_atlasvla.files.folder_lock import FolderLock;"
    "lock = FolderLock(Path(sys.argv[1]), '--root'); print('held', flush=True); sys.stdin.read()"
)


def test_the_second_process_is_refused_and_the_third_after_the_first_was_killed_is_not(tmp_path):
    folder = tmp_path / "new/dataset"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=rf"writing to --root={folder}; wait"):
            FolderLock(folder, "--root")
        first.kill()
    FolderLock(folder, "--root").release()


def test_an_empty_folder_is_removed_in_the_end_and_a_full_one_is_not(tmp_path):
    lock = FolderLock(tmp_path / "a", "--root")
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path / "a", "--root")
    lock.release()
    assert not (tmp_path / "a").exists()
    lock.release()
    lock = FolderLock(tmp_path / "a", "--root")
    (tmp_path / "a/file").touch()
    del lock
    assert (tmp_path / "a/file").exists()
    FolderLock(tmp_path / "a", "--root")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        FolderLock(tmp_path / "a", "--root")
