"""``atlasvla-convert``: LIBERO's HDF5 demonstrations as a LeRobotDataset with the published schema.

Which demonstrations a dataset holds is recorded with every batch of episodes, so the same command given again converts
what is missing: the rest of a killed run, files that were damaged, files that were added. Unlike the published data,
demonstrations are not replayed in the simulator: the images are those of the file, and none is dropped for failing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_atlasvla.files.folder_lock import FolderInUseError
from lerobot_atlasvla.libero.demonstrations.convert_settings import ConversionError, ConvertConfig, shown
from lerobot_atlasvla.libero.demonstrations.dataset_writer import DatasetWriter, NotOurDatasetError, WriteError
from lerobot_atlasvla.libero.demonstrations.hdf5 import (
    DemoError,
    Demonstration,
    demo_names,
    open_data,
    read_demo,
    task_text,
)
from lerobot_atlasvla.libero.demonstrations.schema import (
    ACTION_KEY,
    FPS,
    IMAGE_KEY,
    ROBOT_TYPE,
    SCHEMA_VERSION,
    STATE_KEY,
    WRIST_IMAGE_KEY,
    libero_features,
    rotate_image,
)
from lerobot_atlasvla.utils.cli import AGAIN, log_to_terminal, run_command
from lerobot_atlasvla.utils.extras import MissingExtraError, require

RECORD_NAME = "atlasvla_convert.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One readable file: its recorded name, path, instruction and demonstrations to convert."""

    name: str
    path: Path
    task: str
    demos: list[str]


@dataclass
class Conversion:
    """Contents of the dataset, compared with what was asked for.

    Attributes:
        files: Readable files.
        total: Demonstrations in them that were asked for.
        converted: Those in the dataset now.
        new: Those converted by this run.
        episodes: Provenance of every episode of the dataset, in order.
        skipped: (file, demonstration or nothing for a whole file, reason).
        images: What was done to the size of the images.
    """

    files: int = 0
    total: int = 0
    converted: int = 0
    new: int = 0
    episodes: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    images: str = ""


def survey(config: ConvertConfig) -> tuple[list[Source], list[tuple[str, str, str]]]:
    """Open every file and list the demonstrations in it.

    Args:
        config: Valid settings.

    Returns:
        Readable files, and the others as in :attr:`Conversion.skipped`.

    Raises:
        ConversionError: If there is no file to look into.
    """
    found, skipped = [], []
    for name, path in config.sources().items():
        try:
            file, data = open_data(path)
            with file:
                task = task_text(data, path, config.task_text)
                found.append(Source(name, path, task, demo_names(data)[: config.max_demos_per_file]))
        except DemoError as error:
            skipped.append((name, "", str(error)))
    return found, skipped


def read_all(
    sources: list[Source], config: ConvertConfig, done: set[tuple[str, str]]
) -> Iterator[tuple[Source, str, Demonstration | DemoError]]:
    """Yield every demonstration not in ``done``, or the reason why it cannot be used, in order."""
    for source in sources:
        missing = [demo for demo in source.demos if (source.name, demo) not in done]
        if not missing:
            continue
        try:
            file, data = open_data(source.path)
        except DemoError as error:  # it was readable a moment ago
            yield from ((source, demo, error) for demo in missing)
            continue
        with file:
            for demo in missing:
                try:
                    yield source, demo, read_demo(data, demo, config.observation_timing)
                except DemoError as error:
                    yield source, demo, error


def demo_frames(demonstration: Demonstration, task: str, image_size: int) -> Iterator[dict[str, Any]]:
    """Turn a demonstration into frames for ``LeRobotDataset.add_frame``.

    Args:
        demonstration: One demonstration.
        task: Its instruction.
        image_size: Height and width that its images are resized to if they differ, pixels.

    Yields:
        One dict per row with the keys of ``libero_features`` and ``task``.
    """
    for t in range(len(demonstration)):
        yield {
            IMAGE_KEY: rotate_image(resize_image(demonstration.agentview[t], image_size)),
            WRIST_IMAGE_KEY: rotate_image(resize_image(demonstration.wrist[t], image_size)),
            STATE_KEY: demonstration.state[t],
            ACTION_KEY: demonstration.actions[t].astype(np.float32),
            "task": task,
        }


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (size, size, 3), antialiased (Lanczos, as OpenVLA does); the same size untouched."""
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.LANCZOS))


class Converter:
    """Fills a dataset with the demonstrations that it lacks.

    Args:
        config: Valid settings.
        store: The dataset.
        sources: Readable files.
        image_size: Height and width of the dataset's images, pixels.
        outcome: Filled in.
    """

    def __init__(
        self, config: ConvertConfig, store: DatasetWriter, sources: list[Source], image_size: int, outcome: Conversion
    ) -> None:
        self._config = config
        self._store = store
        self._sources = sources
        self._image_size = image_size
        self._batch: list[tuple[Source, Demonstration]] = []
        self._outcome = outcome

    def run(self) -> None:
        """Write the demonstrations that were asked for and are not there yet, and note them in the outcome.

        Raises:
            ConversionError: If the dataset cannot be written; what was written before is kept.
        """
        from tqdm import tqdm

        outcome = self._outcome
        asked = {(source.name, demo) for source in self._sources for demo in source.demos}
        done = asked & {(episode["file"], episode["demo"]) for episode in outcome.episodes}
        outcome.converted = len(done)
        with tqdm(total=outcome.total, initial=len(done), unit="ep", desc="converting", smoothing=0.1) as bar:
            for source, name, demonstration in read_all(self._sources, self._config, done):
                try:
                    if isinstance(demonstration, DemoError):
                        raise demonstration
                    self._add(source, name, demonstration)
                except DemoError as error:
                    outcome.skipped.append((source.name, name, str(error)))
                if len(self._batch) >= self._config.save_every:
                    self._commit()
                bar.update()
            self._commit()

    def _add(self, source: Source, name: str, stored: Demonstration) -> None:
        if self._config.image_size is None and stored.image_size != self._image_size:
            raise DemoError(
                f"its images have {stored.image_size} pixels, the dataset's {self._image_size}; give --image_size"
            )
        demonstration = stored if self._config.keep_noops else stored.without_noops()
        if not len(demonstration):
            raise DemoError("every action does nothing (--keep_noops=true keeps them)")
        self._batch.append((source, demonstration))
        self._outcome.episodes.append(
            {
                "file": source.name,
                "demo": name,
                "frames": len(demonstration),
                "noops": len(stored) - len(demonstration),
            }
        )

    def _commit(self) -> None:
        if not self._batch:
            return
        episodes = [demo_frames(demo, source.task, self._image_size) for source, demo in self._batch]
        record = {
            "schema_version": SCHEMA_VERSION,
            "settings": self._config.fixed_settings(),
            "image_size": self._image_size,
            "episodes": self._outcome.episodes,
        }
        frames = sum(len(demonstration) for _, demonstration in self._batch)
        try:
            self._store.commit(episodes, record, image_bytes=frames * 2 * 3 * self._image_size**2)
        except WriteError as error:
            raise ConversionError(str(error)) from error
        self._outcome.new += len(self._batch)
        self._outcome.converted += len(self._batch)
        self._batch = []


def convert(config: ConvertConfig) -> Conversion:
    """Bring every usable demonstration into the dataset at ``config.root``.

    Args:
        config: The settings.

    Returns:
        What the dataset holds of them now, and what was skipped.

    Raises:
        ConversionError: If a setting is wrong, there is nothing to read, the folder holds something else, or the
            dataset cannot be written.
    """
    config.validate()
    try:
        require("h5py", "libero", "Reading LIBERO's demonstrations")
    except MissingExtraError as error:
        raise ConversionError(f"{error}.") from error
    sources, skipped = survey(config)
    outcome = Conversion(len(sources), sum(len(source.demos) for source in sources), skipped=skipped)
    stored_size = _first_image_size(sources, config, outcome)
    if stored_size is None:
        return outcome
    create = {
        "fps": FPS,
        "robot_type": ROBOT_TYPE,
        "features": libero_features(config.image_size or stored_size),
        "use_videos": False,
    }
    try:
        store = DatasetWriter(config.root, config.repo_id, RECORD_NAME, create)
    except (NotOurDatasetError, FolderInUseError) as error:
        raise ConversionError(str(error)) from error
    with closing(store):
        image_size = config.image_size or stored_size
        try:
            record = store.record
            if record is not None:
                with store.reading_record():
                    check_same(record, config, {source.name for source in sources} | {name for name, *_ in skipped})
                    outcome.episodes, image_size = record["episodes"], record["image_size"]
        except NotOurDatasetError as error:
            raise ConversionError(str(error)) from error
        resized = f"resized from {stored_size} to {image_size} px (Lanczos, antialiased)"
        outcome.images = f"{image_size} px as stored" if image_size == stored_size else resized
        logger.info("images: %s, rotated by 180 degrees", outcome.images)
        Converter(config, store, sources, image_size, outcome).run()
        return outcome


def _first_image_size(sources: list[Source], config: ConvertConfig, outcome: Conversion) -> int | None:
    failed = []
    for source, name, demonstration in read_all(sources, config, set()):
        if isinstance(demonstration, Demonstration):
            return demonstration.image_size
        failed.append((source.name, name, str(demonstration)))
    outcome.skipped += failed
    return None


def check_same(record: dict[str, Any], config: ConvertConfig, names: set[str]) -> None:
    """Refuse to continue a dataset that was made differently or from other files.

    Raises:
        ConversionError: Naming the first difference, both values and the flag.
    """
    if record["schema_version"] != SCHEMA_VERSION:
        raise ConversionError(
            f"--root={config.root} was written with schema version {record['schema_version']}, this is version "
            f"{SCHEMA_VERSION}; choose a new --root."
        )
    for name, value in config.fixed_settings().items():
        recorded = record["settings"][name]
        if recorded != value:
            raise ConversionError(
                f"--{name}={shown(value)} differs from {shown(recorded)}, with which the dataset at "
                f"--root={config.root} was made. Continue it with the same, or choose a new --root."
            )
    # Under another name a file would be taken for a new one, and its demonstrations be in the dataset twice.
    missing = sorted({episode["file"] for episode in record["episodes"]} - names)
    if missing:
        raise ConversionError(
            f"--root={config.root} holds demonstrations of {missing[0]}, which is not among the files given now "
            f"({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}). Give the same --files or --folder "
            "(more files may be added; with --files, such as lie in the folder that the earlier ones share, or below "
            "it: files are known by their place there), or choose a new --root."
        )


def summary(config: ConvertConfig, outcome: Conversion) -> str:
    """Format a summary of what was converted and what was not."""
    bad_files = sum(not demo for _, demo, _ in outcome.skipped)
    lines = [f"skipped {file} {demo}".rstrip() + f": {reason}" for file, demo, reason in outcome.skipped]
    if outcome.episodes:
        frames, noops = (sum(episode[key] for episode in outcome.episodes) for key in ("frames", "noops"))
        lines.append(f"images: {outcome.images}, rotated by 180 degrees; frames: {frames}, without {noops} no-ops")
        lines.append(f"dataset: {config.root} (repo_id {config.repo_id}), {len(outcome.episodes)} episodes")
    lines.append(
        f"converted {outcome.converted} of {outcome.total} demonstrations from {outcome.files} files "
        f"({outcome.new} of them now), skipped {len(outcome.skipped) - bad_files} demonstrations "
        f"and {bad_files} unreadable files"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when a demonstration is in the dataset, 1 when none, else :func:`.exit_status`."""
    log_to_terminal("lerobot_atlasvla")

    def body(config: ConvertConfig) -> int:
        outcome = convert(config)
        report = summary(config, outcome) + "\n"
        if not outcome.converted:
            sys.stderr.write(f"{report}atlasvla-convert: nothing could be converted.\n")
            return 1
        sys.stdout.write(report)
        return 0

    return run_command("atlasvla-convert", ConvertConfig, body, argv, errors=ConversionError, again=AGAIN)


if __name__ == "__main__":
    sys.exit(main())
