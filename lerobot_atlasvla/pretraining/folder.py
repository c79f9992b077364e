"""The folder of a pretrained backbone: weights, record, card, measurements; and what may be continued."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lerobot_atlasvla.files.replacing import SCRATCH, write_text
from lerobot_atlasvla.files.safetensors_files import save_tensors
from lerobot_atlasvla.model.geometry.record import FILE, MODEL_TYPE, GeometryRecord

from .data import INFO, GeometryData, data_digest
from .evaluation import MOST_STATES
from .settings import PretrainConfig, PretrainError

WEIGHTS, CARD, METRICS = "model.safetensors", "README.md", "metrics.json"
FIGURES = ("depth.png", "matches.png")
_CHECKPOINTS = "checkpoints"
CONVENTION = (
    "Camera axes are OpenCV's (x right, y down, z forward); lengths are meters; poses lead from a view's camera to the "
    "frame of the heads; intrinsics are in image widths and heights from the top left corner, negative along a "
    "mirrored axis."
)


def checkpoints(config: PretrainConfig) -> Path:
    """Return where a run keeps what it goes on from."""
    return config.output_dir / _CHECKPOINTS


def check_free(config: PretrainConfig) -> None:
    """Check that the folder is new, empty, or holds nothing but what this command writes.

    Raises:
        PretrainError: If it does not.
    """
    place = config.output_dir
    if place.exists() and not place.is_dir():
        raise PretrainError(f"--output_dir={place} is a file; it must be a folder that does not exist yet.")
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    ours = {WEIGHTS, FILE, CARD, METRICS, _CHECKPOINTS, *FIGURES}
    if foreign := sorted(name for name in names - ours if not name.startswith(SCRATCH)):
        raise PretrainError(
            f"--output_dir={place} holds {foreign[0]}, which this command did not make. Nothing was touched; choose a "
            "folder that does not exist yet."
        )


def finished_errors(config: PretrainConfig) -> dict[str, float] | None:
    """Return the errors of a backbone that is there already, made with the same settings; None if there is none.

    Raises:
        PretrainError: If it was made with others, or its record is damaged.
    """
    file = config.output_dir / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["model_type"] != MODEL_TYPE:
            raise ValueError(f"model_type {content['model_type']!r}")
        settings, digest = dict(content["training"]["settings"]), content["data"].get("digest")
        errors = {name: float(value) for name, value in content["held_out"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PretrainError(
            f"{file} is no record of this command ({type(error).__name__}: {error}); choose a new --output_dir."
        ) from error
    if not (config.output_dir / WEIGHTS).is_file():
        raise PretrainError(f"{file} describes weights, but {WEIGHTS} is missing beside it; choose a new --output_dir.")
    # Data that are gone are not needed any more.
    there = (config.dataset_root / INFO).is_file()
    check_same(config, settings, digest, data_digest(config.dataset_root) if there else None)
    # A run may have been killed between the record and this.
    shutil.rmtree(checkpoints(config), ignore_errors=True)
    return errors


def check_same(config: PretrainConfig, settings: Mapping[str, Any], begun: str | None, present: str | None) -> None:
    """Refuse to go on with what was made otherwise.

    Args:
        config: The settings now.
        settings: Those it was begun with.
        begun: Digest of the data it was begun with; ``None`` if it is not known.
        present: Digest of the data now; ``None`` if they are gone.

    Raises:
        PretrainError: Naming the first setting that differs, or the data.
    """
    for name, value in config.fixed().items():
        if settings.get(name) != value:
            flag = f"--{name}={json.dumps(settings.get(name))}"
            raise PretrainError(
                f"--{name}={value} differs from {settings.get(name)}, with which --output_dir={config.output_dir} was "
                f"begun. Go on with {shlex.quote(flag)}, or choose a new --output_dir."
            )
    if None not in (begun, present) and begun != present:
        raise PretrainError(
            f"--dataset_root={config.dataset_root} is not, or no longer, the dataset with which "
            f"--output_dir={config.output_dir} was begun (its meta folder differs); choose a new --output_dir."
        )


def write(
    config: PretrainConfig,
    data: GeometryData,
    record: GeometryRecord,
    tensors: Mapping[str, Tensor],
    history: list[dict[str, Any]],
    held_out_N: Tensor,
) -> None:
    """Write weights, card and, last of all, the record, which makes a folder a backbone."""
    save_tensors(tensors, config.output_dir / WEIGHTS, {"format": "pt"})
    last = history[-1]
    content = record.to_json() | {
        "convention": CONVENTION,
        "data": {
            "repo_id": config.repo_id,
            "digest": data.digest,
            "states": len(data.episodes_N),
            "held_out_states": len(held_out_N),
            "measured_states": min(len(held_out_N), MOST_STATES),
            "episodes": len(data.episodes_N.unique()),
            "ranges": ranges(data, config.views),
            "collected": data.collected,
        },
        "training": {"settings": config.fixed(), **{name: last[name] for name in ("step", "wall_s", "cpu_s")}},
        "held_out": last["held_out"],
    }
    write_text(config.output_dir / CARD, card(config, content, sum(tensor.numel() for tensor in tensors.values())))
    write_text(config.output_dir / FILE, json.dumps(content, indent=1) + "\n")


def ranges(data: GeometryData, roles: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Return, per role, lowest and highest depth (m) and camera position in the robot base's frame (m)."""
    found = {}
    for role, views in zip(roles, data.alternatives, strict=True):
        index = list(views)
        depth, position = data.depth_NAhw[:, index], data.extrinsics_NA44[:, index, :3, 3].flatten(0, 1)
        found[role] = {
            "depth_m": [round(depth.min().item(), 3), round(depth.max().item(), 3)],
            "camera_m": [[round(number, 3) for number in end.tolist()] for end in position.aminmax(dim=0)],
        }
    return found


def card(config: PretrainConfig, content: Mapping[str, Any], parameters: int) -> str:
    """Return the README.md of a backbone."""
    data, training, size = content["data"], content["training"], content["image_size"]
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in content["held_out"].items())
    flags = " ".join(
        shlex.quote(f"--{name}={json.dumps(value) if isinstance(value, list) else value}")
        for name, value in config.fixed().items()
        if value is not None
    )
    figures = "\n".join(f"![{name}]({name})" for name in FIGURES if (config.output_dir / name).exists())
    return f"""---
license: apache-2.0
library_name: lerobot
tags: [robotics, geometry, vggt, atlasvla]
---

# A geometry backbone for AtlasVLA

{parameters / 1e6:.2f} M parameters: VGGT's aggregator ({config.depth} pairs, {config.embed_dim} wide, behind
`{config.patch_embed}`) with heads for depth, points, poses and descriptors. It looks through
{" and ".join(config.views)}, in this order, at {size[0]} x {size[1]} pixels. It has seen simulated views with depth and
known cameras only: no demonstrations, no actions.

## Use

```bash
lerobot-train --policy.type=atlasvla --policy.vggt_model=FOLDER ...
```

Sizes come from `config.json`; cameras are matched with the views by their names, or with `--policy.vggt_views`.

## Errors on held-out episodes

Medians over {data["measured_states"]} of {data["held_out_states"]} held-out states, of {data["states"]} in all
({data["episodes"]} episodes of `{data["repo_id"]}`), in scenes of the same kind. What it does in others was not
measured.

| error | median |
|---|---|
{rows}

{figures}

## Recipe

{training["step"]} steps, {training["wall_s"]:.0f} s, {training["cpu_s"]:.0f} CPU-seconds.

```bash
atlasvla-pretrain --dataset_root=DATASET --output_dir=FOLDER \\
  {flags}
```

Digest of the dataset's `meta/`: `{data["digest"]}`.
"""
