"""Settings of ``atlasvla-convert``, and what is refused before any file is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_atlasvla.utils.setting_checks import check_at_least, check_dataset_root

TASK_TEXTS = ("benchmark", "attribute")
TIMINGS = ("auto", "before", "after")


class ConversionError(Exception):
    """Converting cannot start or go on; the message says why and what to change."""


@dataclass
class ConvertConfig:
    """Settings of ``atlasvla-convert``. Running the same command again continues where a killed run stopped."""

    # Folder of the dataset. It must not exist yet, or hold a dataset that this command made with the same settings.
    root: Path
    # Name of the dataset, as later given to --dataset.repo_id. Nothing is uploaded.
    repo_id: str = "local/atlasvla_libero_hdf5"
    # HDF5 files to convert, in this order, for example '[a_demo.hdf5, b_demo.hdf5]'. Either this or --folder. Files
    # are known by their place in the folder that all share; files added later must lie there or below it.
    files: list[Path] | None = None
    # Folder whose *.hdf5 files are converted, subfolders included, sorted by name.
    folder: Path | None = None
    # Take the first so many demonstrations of every file. All if not given.
    max_demos_per_file: int | None = None
    # Keep the frames whose action does nothing. The published data do not have them.
    keep_noops: bool = False
    # Height and width that both cameras are resized to, antialiased, pixels. As stored if not given.
    image_size: int | None = None
    # Instruction: 'benchmark' for the sentence policies get at evaluation (LIBERO derives it from the file's name),
    # 'attribute' for the one in the attribute problem_info; they differ in libero_spatial, libero_object, libero_goal.
    task_text: str = "benchmark"
    # Whether a row's observation was taken 'before' or 'after' its action. LIBERO's own files hold the one after,
    # OpenVLA's regenerated ones the one before; 'auto' tells from the simulator's states and the joints, and is
    # 'before' in a file without them. Stored is always the one before, as policies get it at evaluation.
    observation_timing: str = "auto"
    # Episodes written at a time, one file each time. A killed run loses at most these.
    save_every: int = 10

    def validate(self) -> None:
        """Raise :class:`ConversionError` for the first setting that cannot work; reads nothing."""
        if (self.files is None) == (self.folder is None):
            raise ConversionError(
                f"--files={shown(self.files)} and --folder={shown(self.folder)}: give exactly one of the two."
            )
        if self.files == []:
            raise ConversionError("--files=[] must name at least one file.")
        for name, allowed in {"task_text": TASK_TEXTS, "observation_timing": TIMINGS}.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConversionError(f"--{name}={value} is not known; allowed: {', '.join(allowed)}.")
        check_dataset_root(ConversionError, self)
        check_at_least(ConversionError, self, max_demos_per_file=1, image_size=1, save_every=1)

    def fixed_settings(self) -> dict[str, Any]:
        """Return the settings that every episode of one dataset shares; files and counts may grow from run to run."""
        names = ("keep_noops", "image_size", "task_text", "observation_timing", "repo_id")
        return {name: getattr(self, name) for name in names}

    def sources(self) -> dict[str, Path]:
        """Return the files to convert by the name under which they are recorded, without local folders.

        Raises:
            ConversionError: If a file or the folder does not exist, or the folder holds no HDF5 file.
        """
        if self.folder is not None:
            if not self.folder.is_dir():
                raise ConversionError(f"--folder={self.folder} is not a folder that exists.")
            paths = sorted(path for path in self.folder.rglob("*.hdf5") if path.is_file())
            if not paths:
                raise ConversionError(f"--folder={self.folder} holds no *.hdf5 file, nor do its subfolders.")
            return {path.relative_to(self.folder).as_posix(): path for path in paths}
        paths = [path.absolute() for path in self.files or []]
        for path in paths:
            if not path.is_file():
                raise ConversionError(f"--files names {path}, which is not a file that exists.")
        shared = os.path.commonpath([path.parent for path in paths])
        return {path.relative_to(shared).as_posix(): path for path in paths}


def shown(value: Any) -> str:
    """Return a setting's value as messages show it."""
    return "(not given)" if value is None else str(value)
