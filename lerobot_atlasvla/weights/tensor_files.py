"""Read from weight files exactly the tensors that are needed, and report what they were."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lerobot_atlasvla.utils.errors import first_line

from .download import WeightsError, listing

# Dtypes that may fill a floating-point tensor.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = ("model", "state_dict")
_GIT_LFS_POINTER = b"version https://git-lfs"
# What torch.load raises for files that are not, or not only, a dict of tensors.
_BROKEN_PICKLE = (EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, struct.error)


@dataclass(frozen=True)
class LoadReport:
    """Report what was read from weight files.

    Attributes:
        source: Name of the weights, as the user knows them.
        matched: Number of tensors read.
        ignored: Number of other tensors in the files, by the first component of their names.
        digest: What :func:`digest` gives for the tensors read.
    """

    source: str
    matched: int
    ignored: Counter[str]
    digest: str

    def __str__(self) -> str:
        details = listing([f"{name} {count}" for name, count in self.ignored.most_common()])
        ignored = f"{self.ignored.total()} ignored ({details})" if details else "none ignored"
        return f"{self.source}: {self.matched} tensors matched, {ignored}, none missing"


@dataclass(frozen=True)
class _Checkpoint:
    """One open weight file: shapes by name, and a way to one tensor."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def read_tensors(
    weights: Sequence[Path],
    expected: Mapping[str, Sequence[int]],
    *,
    source: str,
    prefixes: Sequence[str] = ("",),
    bare: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], LoadReport]:
    """Read the expected tensors, in the dtype in which they are stored, and nothing else.

    The tensors are private memory maps of the files where the format allows it: writing to them does not change a file.

    Args:
        weights: Weight files (safetensors, or what ``torch.save`` writes); the shards of one checkpoint.
        expected: Shapes by name, without prefix.
        source: Name of the weights, for the report and error messages.
        prefixes: What the files may put in front of every name; the one under which most expected names are found is
            taken.
        bare: What those names begin with that never have a prefix.

    Returns:
        The tensors by expected name, and the report.

    Raises:
        WeightsError: If a file can't be read, or an expected tensor is missing, has another shape or is not finite.
    """
    with contextlib.ExitStack() as stack:
        place: dict[str, _Checkpoint] = {}
        for path in weights:
            checkpoint = _open(path, stack)
            place.update(dict.fromkeys(checkpoint.shapes, checkpoint))
        prefixed = [name for name in expected if not name.startswith(bare)]
        prefix = max(prefixes, key=lambda candidate: sum(candidate + name in place for name in prefixed))
        full = {name: prefix + name for name in prefixed} | {name: name for name in expected if name.startswith(bare)}
        _check(place, expected, full, prefix, source, weights)
        tensors = {name: place[full[name]].read(full[name]) for name in expected}
    if bad := not_finite(tensors):
        raise WeightsError(
            f"{source} has weights that are not finite: {listing(bad)}. File: {listing([str(p) for p in weights])}."
        )
    used = set(full.values())
    ignored = Counter(name.split(".")[0] for name in sorted(place) if name not in used)
    return tensors, LoadReport(source, len(tensors), ignored, digest(tensors))


def read_shapes(weights: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors in weight files, by name, without reading them.

    Raises:
        WeightsError: If a file can't be read.
    """
    with contextlib.ExitStack() as stack:
        return {name: shape for path in weights for name, shape in _open(path, stack).shapes.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of floating-point tensors with values that are not finite as float32."""

    def finite(tensor: Tensor) -> bool:
        # One pass, which copies nothing: the extremes of what holds a NaN are NaN.
        return all(end.float().isfinite().item() for end in tensor.aminmax())

    return [
        name for name, tensor in tensors.items() if tensor.dtype in FLOATS and tensor.numel() and not finite(tensor)
    ]


def other_kinds(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return which tensors hold numbers that must not be cast to the expected ones, with both dtypes."""
    return [
        f"{name} {tensor.dtype} instead of {expected[name].dtype}"
        for name, tensor in tensors.items()
        if name in expected
        and tensor.dtype != expected[name].dtype
        and not (tensor.dtype in FLOATS and expected[name].dtype in FLOATS)
    ]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a fingerprint of named tensors: equal names, dtypes, shapes and bytes, and only they, give equal digests.

    SHA-256 over one line per tensor, sorted by name: name, dtype (``bfloat16``), shape (``[2,3]``) and the SHA-256 of
    its bytes (contiguous, little-endian).

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    # hashlib lets go of the GIL, so that threads are enough. Large tensors first, lest the last one is waited for.
    order = sorted(tensors, key=lambda name: -tensors[name].nbytes)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = dict(zip(order, pool.map(lambda name: _sha256(tensors[name]), order), strict=True))
    total = hashlib.sha256()
    for name in sorted(tensors):
        dtype = str(tensors[name].dtype).removeprefix("torch.")
        shape = ",".join(str(size) for size in tensors[name].shape)
        total.update(f"{name} {dtype} [{shape}] {sums[name]}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _sha256(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(memoryview(flat.view(torch.uint8).numpy())).hexdigest()


def _open(path: Path, stack: contextlib.ExitStack) -> _Checkpoint:
    # In the Hub's cache the file is a link: without its target, removing it would bring back the same content.
    remedy = f"Remove {os.path.realpath(path)} and download it again."
    try:
        with path.open("rb") as file:
            if file.read(len(_GIT_LFS_POINTER)) == _GIT_LFS_POINTER:
                raise WeightsError(f"{path} is only a Git LFS pointer to the weights. Run `git lfs pull` there.")
        if path.suffix == ".safetensors":
            # Not safetensors.torch.load_file: it reads every tensor.
            opened = stack.enter_context(safe_open(path, framework="pt"))
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            return _Checkpoint(shapes, opened.get_tensor)
        # Only the zip format can be mapped; checkpoints from before PyTorch 1.6 are read as a whole.
        content = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"Cannot read the weight file {path}: {error}.") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({first_line(error, 200)}). {remedy}") from error
    # The message of an UnpicklingError recommends weights_only=False, that is, to run whatever code the file holds.
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} is damaged or holds other Python objects than tensors. {remedy}") from error
    except _BROKEN_PICKLE as error:
        raise WeightsError(
            f"{path} is damaged or no PyTorch checkpoint ({first_line(error, 200)}). {remedy}"
        ) from error
    return _from_pickle(path, content)


def _from_pickle(path: Path, content: object) -> _Checkpoint:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} is no checkpoint: it holds no named tensors but a {type(content).__name__}.")
    return _Checkpoint({name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__)


def _check(
    place: Mapping[str, _Checkpoint],
    expected: Mapping[str, Sequence[int]],
    full: Mapping[str, str],
    prefix: str,
    source: str,
    weights: Sequence[Path],
) -> None:
    """Raise if an expected tensor is not there or has another shape."""
    missing = [name for name in expected if full[name] not in place]
    other = [
        f"{name} (file: {list(found)}, model: {list(expected[name])})"
        for name in expected
        if full[name] in place and (found := place[full[name]].shapes[full[name]]) != tuple(expected[name])
    ]
    problems = []
    if missing:
        has = f" (it has {listing(list(place))})" if len(missing) == len(expected) else ""
        problems.append(f"{len(missing)} of {len(expected)} tensors missing: {listing(missing)}{has}")
    if other:
        problems.append(f"{len(other)} of {len(expected)} tensors of another shape: {listing(other)}")
    if problems:
        under = f", looked for with the prefix {prefix!r}" if prefix else ""
        raise WeightsError(
            f"{source} does not fit the model: {'; '.join(problems)}{under}. "
            f"File: {listing([str(path) for path in weights])}."
        )
