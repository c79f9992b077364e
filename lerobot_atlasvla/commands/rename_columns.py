"""``python -m lerobot_atlasvla.commands.rename_columns``: a copy of a dataset whose columns have LeRobot's names.

Datasets made for other trainers call their columns ``image``, ``state`` and ``actions``. LeRobot looks for
``observation.*`` and ``action``; its own ``--rename_map`` renames observations for a checkpoint, not the columns that a
new policy is made for, and never the action.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.policy.columns import BOOKKEEPING
from lerobot_atlasvla.utils.cli import run_command
from lerobot_atlasvla.utils.errors import brief
from lerobot_atlasvla.utils.paths import pattern_in

INFO, STATS = Path("meta/info.json"), Path("meta/stats.json")
# Where Hugging Face's datasets describe the columns, in a parquet file's own description.
_HUGGINGFACE = b"huggingface"


class RenameError(Exception):
    """Columns can't be renamed; the message says why and what to change."""


@dataclass
class RenameConfig:
    """Copy a dataset under new column names. The dataset itself stays as it is."""

    # Folder of the dataset (LeRobot's format v3).
    root: Path
    # Folder of the renamed copy; it must not exist yet.
    output_dir: Path
    # New names by old ones, as JSON, for example '{"image": "observation.images.image", "actions": "action"}'.
    rename_map: dict[str, str] = field(default_factory=dict)


def rename(config: RenameConfig) -> None:
    """Write the copy, whole or not at all.

    Raises:
        RenameError: If the folder is no dataset of format v3, or the names do not go together.
        FileExistsError: If the copy's folder exists, at the beginning or, made by another process, at the end.
        OSError: If a file can't be read or written.
    """
    root, target, names = config.root, config.output_dir, config.rename_map
    if problem := pattern_in(target, "--output_dir"):
        raise RenameError(problem)
    if not (root / INFO).is_file():
        raise RenameError(f"--root={root} is no LeRobot dataset: it has no {INFO}.")
    if target.exists():
        raise FileExistsError(target)
    info = json.loads((root / INFO).read_text(encoding="utf-8"))
    if not str(info.get("codebase_version", "")).startswith("v3"):
        raise RenameError(
            f"--root={root} is a dataset of format {info.get('codebase_version')}, this command knows v3; convert it "
            "with LeRobot's lerobot.scripts.convert_dataset_v21_to_v30 first."
        )
    _check_names(list(info["features"]), names)
    with replacing(target) as copy:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            place = _renamed_path(file.relative_to(root), names)
            (copy / place).parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".parquet":
                _copy_table(file, copy / place, names)
            else:
                shutil.copy2(file, copy / place)
        info["features"] = {names.get(key, key): feature for key, feature in info["features"].items()}
        (copy / INFO).write_text(json.dumps(info, indent=4) + "\n", encoding="utf-8")
        if (root / STATS).is_file():
            stats = json.loads((root / STATS).read_text(encoding="utf-8"))
            renamed = {names.get(key, key): values for key, values in stats.items()}
            (copy / STATS).write_text(json.dumps(renamed, indent=4) + "\n", encoding="utf-8")


def _check_names(columns: Sequence[str], names: Mapping[str, str]) -> None:
    if not names:
        raise RenameError(f"--rename_map={{}} must name at least one column; the dataset has {list(columns)}.")
    if unknown := [name for name in names if name not in columns or name in BOOKKEEPING]:
        allowed = [name for name in columns if name not in BOOKKEEPING]
        raise RenameError(f"--rename_map names {unknown}; the columns that can be renamed are {allowed}.")
    after = [names.get(name, name) for name in columns]
    if twice := sorted({name for name in after if after.count(name) > 1}):
        raise RenameError(f"--rename_map gives {twice} to two columns; the dataset has {list(columns)}.")
    if foreign := [name for name in names.values() if not name or "/" in name or name in (".", "..")]:
        raise RenameError(f"--rename_map has the names {foreign}; a name may be anything without a slash.")


def _renamed_path(file: Path, names: Mapping[str, str]) -> Path:
    """Return where a file goes: videos and images lie in folders with their columns' names."""
    if file.parts[0] not in ("videos", "images"):
        return file
    for old, new in names.items():
        rest = file.parts[1:]
        # openpi's relatives have names with slashes in them, which are folders here.
        if rest[: old.count("/") + 1] == tuple(old.split("/")):
            return Path(file.parts[0], new, *rest[old.count("/") + 1 :])
    return file


def _copy_table(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy a parquet file, row group by row group, under new names; per-episode statistics among them."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source)
    schema = file.schema_arrow
    renamed = [_renamed_column(name, names) for name in schema.names]
    metadata = dict(schema.metadata or {})
    if _HUGGINGFACE in metadata:
        described = json.loads(metadata[_HUGGINGFACE])
        features = described.get("info", {}).get("features", {})
        described["info"]["features"] = {_renamed_column(key, names): value for key, value in features.items()}
        metadata[_HUGGINGFACE] = json.dumps(described).encode()
    # pandas' own description names columns as well; LeRobot reads these files without it.
    if b"pandas" in metadata and renamed != schema.names:
        del metadata[b"pandas"]
    written = schema
    for index, name in enumerate(renamed):
        written = written.set(index, schema.field(index).with_name(name))
    written = written.with_metadata(metadata)
    with pq.ParquetWriter(target, written) as writer:
        for group in range(file.num_row_groups):
            writer.write_table(file.read_row_group(group).rename_columns(renamed).cast(written))


def _renamed_column(name: str, names: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    for kind in ("stats/", "videos/"):
        for old, new in names.items():
            if name.startswith(f"{kind}{old}/"):
                return f"{kind}{new}/{name.removeprefix(f'{kind}{old}/')}"
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is that of :func:`.exit_status`."""

    def body(config: RenameConfig) -> None:
        try:
            rename(config)
        except FileExistsError as error:
            raise RenameError(f"--output_dir={config.output_dir} exists; choose a folder that does not.") from error
        # Of JSON, parquet or columns that are not as LeRobot writes them.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RenameError(
                f"--root={config.root} is damaged ({brief(error)}); copy or download the dataset again."
            ) from error
        sys.stdout.write(f"renamed copy: {config.output_dir}\n")

    return run_command("rename_columns", RenameConfig, body, argv, errors=(RenameError, OSError))


if __name__ == "__main__":
    sys.exit(main())
