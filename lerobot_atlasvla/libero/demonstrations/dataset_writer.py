"""A LeRobotDataset that survives being killed at any moment.

LeRobot's parquet writers leave unreadable files behind until they are finalized, and counts in ``info.json`` that run
ahead of the data. So episodes are never written into the dataset itself: LeRobot's own code writes a batch to a staging
folder inside the dataset and finalizes it there; the batch is marked complete and then moved over file by file (renames
on one file system). The order of the moves keeps the dataset loadable in between, and a move that was cut short is
finished at the next start; a batch that was never marked complete is thrown away.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lerobot_atlasvla.files.folder_lock import FolderLock
from lerobot_atlasvla.files.replacing import sync
from lerobot_atlasvla.utils.errors import brief
from lerobot_atlasvla.utils.paths import existing_part, why_not

STAGING = ".staging"
READY = "READY"
INFO = Path("meta/info.json")


class NotOurDatasetError(ValueError):
    """The folder holds something that this store did not write, or nothing can be written to it."""


class WriteError(OSError):
    """Episodes could not be written; those before them are in the dataset. The message says what to do."""


class DatasetWriter:
    """Crash-safe appending to a LeRobotDataset v3, batch by batch.

    Opening a store finishes or discards what a killed run left in the staging folder; nothing else is touched. As long
    as it is open, no other store can be opened on the same folder.

    Args:
        root: The dataset's folder; may not exist yet.
        repo_id: The dataset's name.
        record_name: File name, inside ``meta/``, of the JSON record that is committed together with the episodes.
        create: Keyword arguments of ``LeRobotDataset.create`` other than ``repo_id`` and ``root``.

    Raises:
        NotOurDatasetError: If ``root`` exists and is neither empty nor a dataset with such a record, or it can't be
            made or written to.
        FolderInUseError: If another process is writing to it.
    """

    def __init__(self, root: Path, repo_id: str, record_name: str, create: dict[str, Any]) -> None:
        self.root = root
        self._repo_id = repo_id
        self._record = Path("meta") / record_name
        self._create = create
        self._staging = root / STAGING
        self._check_ours()
        try:
            self._lock = FolderLock(root, "--root")
        except OSError as error:
            raise NotOurDatasetError(f"{why_not(error, root, '--root')}.") from error
        self._check_ours()  # as it is now that nobody else writes
        try:
            # A folder can be opened that can't be written to; that should not show after an hour of simulation.
            with tempfile.TemporaryFile(dir=root):
                pass
            if (self._staging / READY).exists():
                self._publish()
            elif self._staging.exists():
                shutil.rmtree(self._staging)
        except OSError as error:
            self._lock.release()
            raise NotOurDatasetError(f"{why_not(error, root, '--root')}.") from error

    def _check_ours(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise NotOurDatasetError(f"--root={self.root} is a file; it must be a folder that does not exist yet.")
        entries = {entry.name for entry in self.root.iterdir()} - {STAGING}
        first_batch = (self._staging / READY).exists() and (self._staging / self._record).exists()
        if entries and not ((self.root / self._record).exists() or first_batch):
            kind = "a dataset that this command did not make" if (self.root / INFO).exists() else "no dataset"
            raise NotOurDatasetError(
                f"--root={self.root} exists and holds {kind} (there is no {self._record} in it). Nothing was touched; "
                "choose a folder that does not exist yet."
            )

    def close(self) -> None:
        """Let others write to the folder, before this object is gone."""
        self._lock.release()

    @property
    def record(self) -> dict[str, Any] | None:
        """Return the record committed last, or None for a new dataset.

        Raises:
            NotOurDatasetError: If it is damaged.
        """
        path = self.root / self._record
        if not path.exists():
            return None
        with self.reading_record():
            return dict(json.loads(path.read_text(encoding="utf-8")))

    @contextmanager
    def reading_record(self) -> Iterator[None]:
        """Say of what goes wrong meanwhile that the record, or LeRobot's own about the dataset, is damaged.

        Raises:
            NotOurDatasetError: In place of what a file raises that is not as it was written.
        """
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FileNotFoundError) as error:
            raise NotOurDatasetError(
                f"--root={self.root} has a damaged {self._record} or {INFO} ({brief(error)}). Nothing was touched; put "
                "it back from a copy, or choose a folder that does not exist yet."
            ) from error

    def commit(
        self, episodes: Iterable[Iterable[dict[str, Any]]], record: dict[str, Any], *, image_bytes: int = 0
    ) -> None:
        """Append episodes and replace the record, both or neither.

        Args:
            episodes: Frames for ``LeRobotDataset.add_frame``, per episode; may be empty.
            record: JSON-serializable.
            image_bytes: Size of all their images, uncompressed. Room for them is made sure of before anything is
                written.

        Raises:
            WriteError: If the disk is full, or about to be, or can't be written to.
        """
        episodes = list(episodes)
        if not episodes and not (self.root / INFO).exists():
            return  # a dataset without episodes does not load
        self._check_room(len(episodes), image_bytes)
        try:
            self._write(episodes, record)
        except OSError as error:
            raise WriteError(
                f"{why_not(error, self.root, '--root')}. --root={self.root} is complete up to here; run the same "
                "command again to go on."
            ) from error

    def _check_room(self, episodes: int, image_bytes: int) -> None:
        """LeRobot logs and ignores images that it cannot write, so a full disk must be foreseen."""
        # A PNG is hardly ever larger than its pixels, and each is on disk twice for a moment: as a file, and in the
        # dataset.
        needed = 2 * image_bytes
        free = shutil.disk_usage(existing_part(self.root)).free
        if free < needed:
            fewer = f" (fewer with --save_every below {episodes})" if episodes > 1 else ""
            raise WriteError(
                f"The disk is full: the next {episodes} episodes may need {needed >> 20} MiB{fewer}, {free >> 20} MiB "
                f"are free. --root={self.root} is complete up to here; free some space and run the same command again."
            )

    def _write(self, episodes: list[Iterable[dict[str, Any]]], record: dict[str, Any]) -> None:
        if self._staging.exists():
            shutil.rmtree(self._staging)
        if episodes:
            self._stage_episodes(episodes)
        path = self._staging / self._record
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        _sync_tree(self._staging)
        (self._staging / READY).touch()
        sync(self._staging)
        self._publish()

    def _stage_episodes(self, episodes: list[Iterable[dict[str, Any]]]) -> None:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
        from lerobot.utils.utils import SuppressProgressBars

        if (self.root / INFO).exists():
            # LeRobot resumes from metadata alone and puts new episodes into new files.
            shutil.copytree(self.root / "meta", self._staging / "meta")
            dataset = LeRobotDataset.resume(self._repo_id, root=self._staging)
            published = set((self._staging / "meta" / "episodes").rglob("*.parquet"))
        else:
            self.root.mkdir(parents=True, exist_ok=True)
            dataset = LeRobotDataset.create(self._repo_id, root=self._staging, **self._create)
            published = set()
        with SuppressProgressBars():
            for frames in episodes:
                for frame in frames:
                    dataset.add_frame(frame)
                dataset.save_episode()
            dataset.finalize()
        for path in published:
            path.unlink()

    def _publish(self) -> None:
        """Move the staged files into the dataset; safe to repeat after being cut short anywhere."""
        files = [path.relative_to(self._staging) for path in self._staging.rglob("*") if path.is_file()]
        # Data before the metadata that mentions them, the episode count last: rows that nothing refers to do no harm.
        for file in sorted((file for file in files if file.parts[0] in ("data", "meta")), key=_publishing_order):
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._staging / file, self.root / file)
        _sync_tree(self.root / "meta")
        shutil.rmtree(self._staging)


def _publishing_order(file: Path) -> tuple[int, str]:
    ranks: list[Callable[[Path], bool]] = [
        lambda f: f.parts[0] == "data",
        lambda f: f.name == "tasks.parquet",
        lambda f: f.parts[:2] == ("meta", "episodes"),
        lambda f: f != INFO,
        lambda f: True,
    ]
    return next(rank for rank, matches in enumerate(ranks) if matches(file)), str(file)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
