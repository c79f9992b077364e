"""Measure what a geometry backbone's points are worth on a robot's views: overlap, scale, accuracy, without any policy.

The truth is a dataset with ``observation.depth.<view>`` (h, w), float32, meters along the optical axis, and
``observation.cameras.<view>.intrinsics`` (3, 3), pixels of the stored image, and ``.extrinsics`` (4, 4), from the
camera (OpenCV axes) to the robot's base, meters.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import OBS_IMAGES

from eval.common.cli import run_command
from eval.common.environment_info import machine, versions
from eval.common.errors import EvalError, check_at_least
from eval.common.files import json_text, only_writer
from eval.offline.geometry_check_page import geometry_check_page
from eval.offline.policy_data import read_dataset, read_metadata
from eval.rollout.policy.checkpoint import choose_device
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.inspection.point_errors import Truth, View, compare, estimate_geometry, point_errors_cm
from lerobot_atlasvla.libero.cameras.features import geometry_keys

if TYPE_CHECKING:
    from lerobot_atlasvla import AtlasVLAConfig
    from lerobot_atlasvla.model.geometry.backbone import GeometryBackbone

REPORT, PAGE = "report.json", "report.md"


@dataclass
class GeometryCheckConfig:
    """Measure how well a geometry backbone sees a robot's scene."""

    # Weights, as --policy.vggt_model: a Hub id, a folder or a file.
    vggt_model: str
    # Folder of a LeRobot dataset with depth and cameras.
    dataset_root: Path
    # report.md and report.json are written here; those of an earlier check are replaced.
    output_dir: Path
    # Views together, the reference (of a robot with a wrist camera, that one) first. Empty: wrist and scene_0, or the
    # first two that the dataset has.
    views: list[str] = field(default_factory=list)
    # Frames measured, spread evenly over the dataset.
    frames: int = 50
    # (height, width) in pixels that the backbone sees. Empty: what its record says, 224 x 224 for weights without one.
    image_size: list[int] = field(default_factory=list)
    # Overlap: distances, cm, within which a cell of the first view must have one of another view.
    near_cm: list[float] = field(default_factory=lambda: [1.0, 2.0, 5.0])
    # Show images that are stored mirrored (by their camera matrix) the right way round. Unset: yes, but not to a
    # backbone with a record, which learned from stored images.
    unmirror: bool | None = None
    # Where to compute: cpu or cuda. Unset: on a GPU if there is one.
    device: str | None = None


def check(cfg: GeometryCheckConfig) -> dict[str, Any]:
    """Measure; the content of the report.

    Raises:
        EvalError: If weights or dataset can't be used, or a flag can't work.
    """
    check_at_least(cfg, frames=1)
    if not cfg.near_cm or not all(0 < near < float("inf") for near in cfg.near_cm):
        raise EvalError(f"--near_cm={cfg.near_cm} must be one or more positive distances in cm.")
    # The dataset first: its mistakes show at once, weights may take minutes.
    meta = read_metadata(cfg.dataset_root)
    views = chosen_views(cfg, meta.features)
    dataset = read_dataset(meta, cfg.dataset_root, None)
    config, backbone = load_backbone(cfg)
    count = min(cfg.frames, len(dataset))
    has_record = "vggt" in config.backbone_architectures
    unmirror = not has_record if cfg.unmirror is None else cfg.unmirror
    rows, estimates = [], []
    for index in range(count):
        # Integers: (k + 1/2) / K of the length, rounded down.
        frame = (2 * index + 1) * len(dataset) // (2 * count)
        item: Any = dataset[frame]
        truth = Truth([read_view(cfg, item, name, frame) for name in views], unmirror)
        estimates.append(estimate_geometry(backbone, truth, config.image_size))
        rows.append({"frame": frame} | compare(estimates[-1], cfg.near_cm))
    scale = statistics.median(row["scale"] for row in rows)
    for row, estimate in zip(rows, estimates, strict=True):
        row["point_one_scale_cm"] = point_errors_cm(estimate, scale)
    return {
        "vggt_model": cfg.vggt_model,
        "dataset": cfg.dataset_root.name,
        "views": views,
        "image_size": list(config.image_size),
        "near_cm": cfg.near_cm,
        "unmirrored": unmirror,
        "environment": versions() | machine(),
        "frames": rows,
    }


def chosen_views(cfg: GeometryCheckConfig, features: Mapping[str, Any]) -> list[str]:
    """Return the names of the views to look through, all of which the dataset has with depth and cameras.

    Raises:
        EvalError: Naming what is missing.
    """
    where = f"--dataset_root={cfg.dataset_root}"
    names = [key.removeprefix(f"{OBS_IMAGES}.") for key in features if key.startswith(f"{OBS_IMAGES}.")]
    preferred = [name for name in ("wrist", "scene_0") if name in names]
    views = cfg.views or [*preferred, *(name for name in names if name not in preferred)][:2]
    if not views or len(set(views)) < len(views) or set(views) - set(names):
        raise EvalError(f"--views={views} must be different views of {where}, which has {names}.")
    for name in views:
        for key, dimensions in zip(geometry_keys(name), (None, (3, 3), (4, 4)), strict=True):
            if key not in features:
                raise EvalError(
                    f"{where} has no {key}; the check needs depth and cameras of every view that it looks through "
                    f"(--views={views})."
                )
            shape = tuple(features[key]["shape"])
            if len(shape) != 2 or dimensions not in (None, shape):
                raise EvalError(f"{where} has {key} of shape {shape}; it must be {dimensions or '(h, w)'}.")
    return views


def read_view(cfg: GeometryCheckConfig, item: Mapping[str, Any], name: str, frame: int) -> View:
    """Read one view of a frame.

    Raises:
        EvalError: If a number can't be a depth or a camera.
    """
    depth, intrinsics, extrinsics = (torch.as_tensor(item[key]).float() for key in geometry_keys(name))
    turned = extrinsics[:3, :3]
    good = intrinsics.isfinite().all() and (intrinsics.diagonal() != 0).all() and extrinsics.isfinite().all()
    if not good or (turned @ turned.T - torch.eye(3)).abs().max() > 1e-2 or not (depth > 0).any():
        raise EvalError(
            f"--dataset_root={cfg.dataset_root} has a camera or a depth of {name} in frame {frame} that can't be: "
            "zero, not finite, or no rotation."
        )
    return View(item[f"{OBS_IMAGES}.{name}"].float(), depth, intrinsics, extrinsics[:3])


def load_backbone(cfg: GeometryCheckConfig) -> tuple["AtlasVLAConfig", "GeometryBackbone"]:
    """Build the backbone with its heads, of the sizes that its weights have, and read them.

    Raises:
        EvalError: If the weights can't be had, or have no heads that give points, or a flag can't work.
    """
    from accelerate import init_empty_weights

    from lerobot_atlasvla import AtlasVLAConfig
    from lerobot_atlasvla.configuration_atlasvla import ConfigError
    from lerobot_atlasvla.model.atlasvla import make_geometry_backbone
    from lerobot_atlasvla.model.frozen import freeze
    from lerobot_atlasvla.weights import backbones, download, geometry_files

    try:
        resolved = download.resolve(cfg.vggt_model, revision=None, companions=(), flag="--vggt_model")
        settings: dict[str, Any] = {}
        if geometry_files.vggt_record(resolved, "--vggt_model") is None:
            settings = geometry_files.vggt_settings(resolved, "--vggt_model")
            settings |= {"vggt_output_layers": (settings["vggt_depth"] - 1,), "image_size": (224, 224)}
        if cfg.image_size:
            settings["image_size"] = tuple(cfg.image_size)
        config = AtlasVLAConfig(
            device=choose_device(cfg.device),
            push_to_hub=False,
            vggt_model=cfg.vggt_model,
            query_conditioning="only_landmarks",
            **settings,
        )
        backbones.take_sizes(config, {"vggt": resolved})
        height, width = config.image_size
        with init_empty_weights():
            backbone = make_geometry_backbone(config, (height // config.patch_size, width // config.patch_size))
        backbones.read(config, "vggt", backbone, resolved)
    except ConfigError as error:
        raise EvalError(f"{error} Here without 'policy.' in the flags.") from error
    except (OSError, ValueError) as error:
        raise EvalError(f"--vggt_model={cfg.vggt_model} can't be used: {error}") from error
    freeze(backbone)
    return config, backbone.to(config.device)


def run(cfg: GeometryCheckConfig, command: str) -> None:
    """Measure and write the report."""
    if cfg.output_dir.exists() and not cfg.output_dir.is_dir():
        raise EvalError(f"--output_dir={cfg.output_dir} is a file; it must be a folder.")
    content = check(cfg) | {"command": command}
    page = geometry_check_page(content)
    with only_writer(cfg.output_dir):
        write_text(cfg.output_dir / REPORT, json_text(content))
        write_text(cfg.output_dir / PAGE, page)
    sys.stdout.write(f"{page.split('## ')[0].strip()}\n\ngeometry check: {cfg.output_dir / PAGE}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for what can't be measured, 2 for a flag that does not parse."""
    return run_command("eval.geometry_check", GeometryCheckConfig, run, argv)
