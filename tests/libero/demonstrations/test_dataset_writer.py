"""A dataset survives a crash at every file operation."""

import os

import numpy as np
import pytest

from lerobot_atlasvla.files.folder_lock import FolderInUseError
from lerobot_atlasvla.libero.demonstrations import dataset_writer as writer_module
from lerobot_atlasvla.libero.demonstrations.dataset_writer import READY, STAGING, DatasetWriter, NotOurDatasetError

CREATE = {
    "fps": 10,
    "robot_type": "panda",
    "use_videos": False,
    "features": {
        "observation.images.image": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channel"]},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    },
}


class CrashError(Exception):
    pass


def episode(value: int, steps: int = 3):
    for t in range(steps):
        yield {
            "observation.images.image": np.full((8, 8, 3), value, dtype=np.uint8),
            "action": np.array([value, t], dtype=np.float32),
            "task": f"task {value}",
        }


def open_store(root) -> DatasetWriter:
    return DatasetWriter(root, "test/store", "record.json", CREATE)


def values(root) -> list[int]:
    """First action of every episode of the dataset, as LeRobot loads it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("test/store", root=root)
    assert len(dataset) == 3 * dataset.num_episodes
    indices = [dataset.meta.episodes[e]["dataset_from_index"] for e in range(dataset.num_episodes)]
    return [int(dataset[i]["action"][0]) for i in indices]


@pytest.fixture
def crash_after(monkeypatch):
    """Make the n-th file move raise, as a kill would: nothing after it runs."""

    def arm(moves: int) -> None:
        done = 0

        def replace(source, target):
            nonlocal done
            if done == moves:
                raise CrashError
            done += 1
            real(source, target)

        real = os.replace
        monkeypatch.setattr(writer_module.os, "replace", replace)

    yield arm
    monkeypatch.undo()


def test_commits_append(tmp_path):
    root = tmp_path / "ds"
    store = open_store(root)
    assert store.record is None
    store.commit([episode(1), episode(2)], {"n": 2})
    store.commit([episode(3)], {"n": 3})
    store.commit([], {"n": 4})
    assert values(root) == [1, 2, 3]
    store.close()
    assert open_store(root).record == {"n": 4}
    assert not (root / STAGING).exists()


def test_nothing_is_written_without_a_first_episode(tmp_path):
    store = open_store(tmp_path / "ds")
    store.commit([], {"n": 0})
    store.close()
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("existing", [0, 1])
def test_crash_at_every_move_is_recovered(tmp_path, crash_after, monkeypatch, existing):
    for moves in range(20):
        root = tmp_path / f"ds{moves}"
        store = open_store(root)
        if existing:
            store.commit([episode(1)], {"n": 1})
        crash_after(moves)
        try:
            store.commit([episode(2)], {"n": 2})
        except CrashError:
            monkeypatch.undo()
            store.close()
            if existing:
                assert values(root) in ([1], [1, 2])  # loads before anything is repaired
            assert open_store(root).record == {"n": 2}
            assert values(root) == [1] * existing + [2]
            open_store(root).commit([episode(3)], {"n": 3})
            assert values(root) == [1] * existing + [2, 3]
        else:
            monkeypatch.undo()
            assert moves >= 5, "the crash was never simulated"
            return
    pytest.fail("a commit takes more moves than this test tries")


def test_a_batch_cut_short_while_being_written_is_discarded(tmp_path):
    def broken():
        yield from episode(2, steps=2)
        raise CrashError

    root = tmp_path / "ds"
    store = open_store(root)
    store.commit([episode(1)], {"n": 1})
    with pytest.raises(CrashError):
        store.commit([episode(5), broken()], {"n": 3})
    store.close()
    assert (root / STAGING).exists()
    assert not (root / STAGING / READY).exists()
    assert values(root) == [1]
    store = open_store(root)
    assert store.record == {"n": 1}
    store.commit([episode(2)], {"n": 2})
    assert values(root) == [1, 2]


def test_a_crash_before_the_first_commit_leaves_a_usable_folder(tmp_path):
    (tmp_path / "ds" / STAGING).mkdir(parents=True)
    open_store(tmp_path / "ds").commit([episode(1)], {"n": 1})
    assert values(tmp_path / "ds") == [1]


@pytest.mark.parametrize(("file", "message"), [("notes.txt", "holds no dataset"), ("meta/info.json", "did not make")])
def test_foreign_folders_are_refused_and_left_alone(tmp_path, file, message):
    path = tmp_path / "ds" / file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(NotOurDatasetError, match=message):
        open_store(tmp_path / "ds")
    assert [p for p in (tmp_path / "ds").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "mine"


def test_a_file_as_root_is_refused(tmp_path):
    (tmp_path / "ds").write_text("mine")
    with pytest.raises(NotOurDatasetError, match="is a file"):
        open_store(tmp_path / "ds")


def test_a_second_store_on_the_same_folder_is_refused_and_disturbs_nothing(tmp_path):
    """Three writers at once used to leave a dataset that no longer loads."""
    root = tmp_path / "ds"
    first = open_store(root)
    first.commit([episode(1)], {"n": 1})
    with pytest.raises(FolderInUseError, match="Another process is writing to --root="):
        open_store(root)
    first.commit([episode(2)], {"n": 2})
    del first
    assert open_store(root).record == {"n": 2}
    assert values(root) == [1, 2]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotOurDatasetError, match=r"--root=.*file/ds can't be written: .*Not a directory"):
        open_store(tmp_path / "file/ds")
