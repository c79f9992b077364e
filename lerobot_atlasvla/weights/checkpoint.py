"""Slim checkpoints: frozen backbones that are still what their source gave are referred to, not written.

A checkpoint lists the parts it refers to in the header of ``model.safetensors``; ``config.json`` names the source,
revision and digest of each. Loading fills exactly those from their sources, and everything else must be in the file.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .download import WeightsError

logger = logging.getLogger(__name__)

_REFERENCES = "atlasvla_references"
# A tensor that only the checkpoints of the first wiring have.
_GATE = "geometry_gate"


def prefixes(policy: nn.Module, parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """What the state-dict names of each part start with."""
    names = {id(module): name for name, module in policy.named_modules()}
    return {part: f"{names[id(module)]}." for part, module in parts.items()}


def save(state: Mapping[str, Tensor], file: Path, *, references: Mapping[str, str], before: Callable[[], None]) -> None:
    """Write a checkpoint without the parts it refers to; the file appears complete or not at all.

    Args:
        state: The policy's state dict.
        file: ``model.safetensors``.
        references: Part -> prefix of its names, for parts that are left out.
        before: Called when the weights are on disk, right before they take the place of older ones.
    """
    left_out = tuple(references.values())
    kept = {name: tensor.detach().contiguous() for name, tensor in state.items() if not name.startswith(left_out)}
    partial = file.with_name(f"{file.name}.partial")
    try:
        save_file(kept, partial, metadata={"format": "pt", _REFERENCES: json.dumps(sorted(references))})
        before()
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def load(policy: nn.Module, file: Path, parts: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Read a checkpoint and check that, with the parts it refers to, it is exactly the policy's.

    Args:
        policy: The policy, built.
        file: ``model.safetensors``.
        parts: Part -> prefix of its names, for the parts that a checkpoint may refer to.

    Returns:
        The tensors of the file, and the parts it refers to.

    Raises:
        WeightsError: If the file is damaged, or a tensor is missing, left over or of another shape.
    """
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; a checkpoint's folder has a model.safetensors (--policy.path).")
    try:
        with safe_open(file, framework="pt") as handle:
            referred = json.loads((handle.metadata() or {}).get(_REFERENCES, "[]"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} is damaged or incomplete ({error}). Copy or download it again.") from error
    if any(name.endswith(_GATE) for name in tensors):
        raise WeightsError(
            f"{file} was trained when images could reach the actions past VGGT's blocks, which is no longer built; use "
            "it with AtlasVLA at commit b6cd926, or train again."
        )
    unknown = sorted(set(referred) - set(parts))
    if unknown:
        raise WeightsError(f"{file} refers to {unknown}, which this policy's config.json does not take from a source.")
    left_out = tuple(parts[part] for part in referred)
    expected = {name: t for name, t in policy.state_dict().items() if not (left_out and name.startswith(left_out))}
    problems = [
        *_some("missing", expected.keys() - tensors.keys()),
        *_some("unexpected", tensors.keys() - expected.keys()),
        *_some(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
                for name in expected.keys() & tensors.keys()
                if tensors[name].shape != expected[name].shape
            ],
        ),
    ]
    if problems:
        raise WeightsError(f"{file} does not fit its config.json: {'; '.join(problems)}.")
    return tensors, referred


def _some(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{what}: {', '.join(names[:5])}{more}"]
