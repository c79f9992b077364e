"""Work that stalls is given up; work that goes on is not, however long it takes."""

import threading

import pytest

from lerobot_atlasvla.utils.patience import StalledError, size_of, with_patience


def test_results_and_errors_are_handed_on():
    assert with_patience(lambda: 3, seconds=60) == 3
    with pytest.raises(KeyError, match="why"):
        with_patience(lambda: {}["why"], seconds=60)


def test_work_without_an_end_is_given_up():
    stop = threading.Event()
    with pytest.raises(StalledError, match=r"no end within 0\.05 s"):
        with_patience(stop.wait, seconds=0.05)
    stop.set()


def test_progress_that_is_too_small_is_none():
    stop = threading.Event()
    ticks = iter(range(10**9))
    with pytest.raises(StalledError, match=r"less than 1000000 bytes came within 0\.05 s"):
        with_patience(stop.wait, seconds=0.05, progress=lambda: next(ticks), least=10**6)
    stop.set()


def test_progress_starts_the_time_again():
    """The work ends only after its progress was asked for many times more often than the time would allow."""
    asked = []
    enough = threading.Event()

    def progress():
        asked.append(len(asked))
        if len(asked) > 100:
            enough.set()
        return len(asked)

    assert with_patience(lambda: enough.wait(60), seconds=0.2, progress=progress)
    assert len(asked) > 100


def test_the_size_of_a_folder(tmp_path):
    assert size_of(tmp_path / "none") == 0
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(bytes(10))
    (tmp_path / "a/link").symlink_to(tmp_path / "a/b/c")
    assert size_of(tmp_path) < 10 + 3 * 4096 + 1
    assert size_of(tmp_path) >= 10
