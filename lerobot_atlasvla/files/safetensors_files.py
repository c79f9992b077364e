"""Safetensors files like other files: written whole or not at all, as readable as any, equal for equal content.

safetensors 0.8 writes files that only their owner may read (its issue 782), leaves a temporary one when it is killed,
and writes metadata in the random order of a hash table.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from .replacing import replacing

_serialize_file: Any = safetensors.torch.serialize_file


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; equal tensors and metadata give equal bytes.

    Raises:
        OSError: If it can't be written; what was there before stays.
    """
    install()
    safetensors.torch.save_file(dict(tensors), file, metadata=None if metadata is None else dict(metadata))


def install() -> None:
    """Have whatever this process saves with safetensors written like this: LeRobot's pipelines and optimizer, PEFT."""
    safetensors.torch.serialize_file = _replace_file  # pyrefly: ignore[bad-assignment]


def _replace_file(tensors: Any, filename: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
    """Write a file as ``safetensors.serialize_file`` does, but completely or not at all."""
    with replacing(Path(filename)) as scratch:
        _serialize_file(tensors, scratch, metadata=metadata)
        if metadata and len(metadata) > 1:
            _sort_metadata(scratch)


def _sort_metadata(file: Path) -> None:
    """Put the metadata in the header in the order of their names, which changes no length and no tensor."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # always, unless the library writes its JSON in another way some day
            stream.seek(8)
            stream.write(text.ljust(size))
