"""A disk that fills up while the second batch of episodes is written."""

import errno
import os

from lerobot_atlasvla.libero.demonstrations.dataset_writer import DatasetWriter


def fill_up(monkeypatch) -> None:
    """The first batch fits; the second leaves something in the staging folder and fails."""

    def stage(store, episodes):
        if (store.root / "meta").exists():
            (store.root / ".staging" / "data").mkdir(parents=True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(store, episodes)

    real = DatasetWriter._stage_episodes
    monkeypatch.setattr(DatasetWriter, "_stage_episodes", stage)
