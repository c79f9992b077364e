"""Views with depth and cameras in memory: reading a dataset, checking it, and what the heads' scales are.

Shape suffixes: N states, A views of a state, V roles, H and W in pixels, h and w in cells, Q = h x w.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES
from torch import Tensor
from torchvision.transforms.v2 import functional as images_functional
from tqdm import tqdm

from lerobot_atlasvla.libero.cameras.features import geometry_keys, object_coordinates_key
from lerobot_atlasvla.model.geometry.point_heads import cell_rays
from lerobot_atlasvla.model.geometry.record import HeadSizes
from lerobot_atlasvla.model.sizes.memory import available_memory
from lerobot_atlasvla.training.held_out import demonstrations
from lerobot_atlasvla.utils.errors import brief

from .settings import CELLS_PER_SIDE, PretrainConfig, PretrainError

INFO = Path("meta/info.json")
_RECORD = Path("meta/atlasvla_geometry.json")
# Features and counts are alike in many datasets; the statistics of images and depth are not.
_IDENTITY = (INFO, Path("meta/stats.json"), _RECORD)
_ROWS_AT_ONCE = 64
APART_M = 10.0
"""Distance between the places of different bodies."""


@dataclass
class GeometryData:
    """All states of a dataset.

    Attributes:
        images_NAHW3: RGB, uint8.
        depth_NAhw: Depth of each cell along the viewing direction, m.
        intrinsics_NA33: Camera matrices in image widths and heights.
        extrinsics_NA44: From each camera (OpenCV axes) to the robot's base, m.
        alternatives: Per role, the views that can play it.
        object_coordinates_NAhw4: Where on which body each cell is: x, y, z in the body's frame, m, and the body's
            number times :data:`APART_M`. None if the data have none.
        episodes_N: Episode of each state; the first one of those that show the same demonstration.
        digest: See :func:`data_digest`.
        collected: Settings with which ``atlasvla-collect-geometry`` made it, such as ranges of cameras; else empty.
    """

    images_NAHW3: Tensor
    depth_NAhw: Tensor
    intrinsics_NA33: Tensor
    extrinsics_NA44: Tensor
    alternatives: tuple[tuple[int, ...], ...]
    object_coordinates_NAhw4: Tensor | None
    episodes_N: Tensor
    digest: str
    collected: dict[str, Any]

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width of the images, (H, W), in pixels."""
        _, _, height, width, _ = self.images_NAHW3.shape
        return height, width

    def others(self, states_N: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return another state of the same episode for each, at random or, without a generator, half an episode on."""
        order_N, rank_N, start_N, count_N = self._by_episode
        rank, start, count = rank_N[states_N], start_N[states_N], count_N[states_N]
        ahead = count // 2
        if generator is not None:
            ahead = 1 + (torch.rand(len(states_N), generator=generator) * (count - 1)).long()
        return order_N[start + (rank - start + ahead) % count]

    @cached_property
    def _by_episode(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States by episode; of each state, its rank in them, its episode's first rank and its episode's length."""
        order_N = self.episodes_N.argsort(stable=True)
        _, episode_N, counts = self.episodes_N.unique(return_inverse=True, return_counts=True)
        return order_N, order_N.argsort(), (counts.cumsum(0) - counts)[episode_N], counts[episode_N]

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the states to train on, and those of the episodes that are held out: at least one episode each."""
        episodes = self.episodes_N.unique()
        held_out = min(len(episodes) - 1, max(1, round(share * len(episodes))))
        order = torch.randperm(len(episodes), generator=torch.Generator().manual_seed(seed))
        out_N = torch.isin(self.episodes_N, episodes[order[:held_out]])
        return (~out_N).nonzero()[:, 0], out_N.nonzero()[:, 0]


def data_digest(root: Path) -> str:
    """Return the SHA-256 of what ``meta/`` says of a dataset: features, counts, statistics and how it was collected.

    Args:
        root: Folder of the dataset.
    """
    found = hashlib.sha256()
    for file in _IDENTITY:
        content = (root / file).read_bytes() if (root / file).is_file() else b""
        found.update(hashlib.sha256(content).digest())
    return f"sha256:{found.hexdigest()}"


def views_of_roles(names: list[str], roles: list[str]) -> list[list[str]]:
    """Return, for each role, the names that are it, or it and a number."""
    return [sorted(name for name in names if re.fullmatch(rf"{re.escape(role)}(_\d+)?", name)) for role in roles]


def read_data(config: PretrainConfig) -> GeometryData:
    """Read a dataset into memory.

    Raises:
        PretrainError: If it is missing or damaged, lacks views, depth or cameras, does not fit the settings or the
            memory, or holds a number that can't be.
    """
    dataset = _open(config)
    features = dataset.meta.features
    names = [key.removeprefix(f"{OBS_IMAGES}.") for key in features if key.startswith(f"{OBS_IMAGES}.")]
    by_role = views_of_roles(names, config.views)
    for role, found in zip(config.views, by_role, strict=True):
        if not found:
            raise PretrainError(
                f"--dataset_root={config.dataset_root} has no view called {role} or {role}_0, only {names}: say which "
                "views play which role with --views, the reference first."
            )
    used = [name for found in by_role for name in found]
    _check_features(config, features, used)
    size, cells = _sizes(config, features, used)
    has_objects = all(object_coordinates_key(name) in features for name in used)
    needed = len(dataset) * len(used) * (prod(size) * 3 + prod(cells) * (20 if has_objects else 4))
    # What the scales are computed with, one role at a time: depth, and rays, points and their sum in three dimensions.
    needed += len(dataset) * max(map(len, by_role)) * prod(cells) * 40
    if needed > available_memory():
        raise PretrainError(
            f"--dataset_root={config.dataset_root} needs {needed / 1e9:.1f} GB of memory, and "
            f"{available_memory() / 1e9:.1f} GB are available: choose a smaller --image_size, or fewer --views."
        )
    try:
        images, depth, objects, intrinsics, extrinsics, episodes = _read_rows(
            config, dataset, used, size, cells, has_objects=has_objects
        )
    # LeRobot's and Hugging Face's readers raise whatever the files make them stumble over.
    except Exception as error:
        raise PretrainError(f"--dataset_root={config.dataset_root} can't be read: {brief(error)}.") from error
    stored = torch.tensor([features[f"{OBS_IMAGES}.{name}"]["shape"][:2] for name in used], dtype=torch.float32)
    ones = torch.ones(len(used))
    intrinsics /= torch.stack((stored[:, 1], stored[:, 0], ones), dim=-1)[:, :, None]
    starts = np.cumsum([0, *map(len, by_role)])
    data = GeometryData(
        images_NAHW3=images,
        depth_NAhw=depth,
        intrinsics_NA33=intrinsics,
        extrinsics_NA44=extrinsics,
        object_coordinates_NAhw4=_set_apart(objects) if has_objects else None,
        alternatives=tuple(tuple(range(start, end)) for start, end in pairwise(starts)),
        episodes_N=episodes,
        digest=data_digest(config.dataset_root),
        collected=_collected(config.dataset_root / _RECORD),
    )
    _check_numbers(config, data, used)
    if len(episodes.unique()) < 2:
        raise PretrainError(
            f"--dataset_root={config.dataset_root} has one episode, and some must be held out: collect at least two."
        )
    return data


def _read_rows(
    config: PretrainConfig,
    dataset: Any,
    used: list[str],
    size: tuple[int, int],
    cells: tuple[int, int],
    *,
    has_objects: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return images, depth, object coordinates, intrinsics, extrinsics and episodes: :class:`GeometryData`.

    Intrinsics are in the stored images' pixels. Object coordinates are as stored, and empty if the data have none.
    """
    count = len(dataset)
    images = torch.empty(count, len(used), *size, 3, dtype=torch.uint8)
    depth = torch.empty(count, len(used), *cells)
    objects = torch.empty(count, len(used), *cells, 4) if has_objects else torch.empty(0)
    intrinsics, extrinsics = (torch.empty(count, len(used), side, side) for side in (3, 4))
    keys = [key for name in used for key in (f"{OBS_IMAGES}.{name}", *geometry_keys(name))]
    keys += [object_coordinates_key(name) for name in used if has_objects]
    rows = dataset.hf_dataset.select_columns([*keys, "episode_index"]).with_format("numpy")
    shows = demonstrations(config.dataset_root)
    episodes = torch.tensor([shows.get(episode, episode) for episode in np.array(rows["episode_index"]).tolist()])
    for start in tqdm(range(0, count, _ROWS_AT_ONCE), desc="reading", unit="batch"):
        batch = rows[start : start + _ROWS_AT_ONCE]
        place = slice(start, start + _ROWS_AT_ONCE)
        for view, name in enumerate(used):
            depth_key, intrinsics_key, extrinsics_key = geometry_keys(name)
            images[place, view] = _resized(np.stack(batch[f"{OBS_IMAGES}.{name}"]), size)
            median, middle = _pooled(np.stack(batch[depth_key]), cells)
            depth[place, view] = median[..., 0]
            if has_objects:
                shown = _by_cell(torch.as_tensor(np.stack(batch[object_coordinates_key(name)])), cells)
                objects[place, view] = shown.take_along_dim(middle[..., None], dim=3)[:, :, :, 0]
            intrinsics[place, view] = torch.as_tensor(np.stack(batch[intrinsics_key]))
            extrinsics[place, view] = torch.as_tensor(np.stack(batch[extrinsics_key]))
    return images, depth, objects, intrinsics, extrinsics, episodes


def _open(config: PretrainConfig) -> Any:
    root = config.dataset_root
    if not (root / INFO).is_file():
        raise PretrainError(
            f"--dataset_root={root} holds no dataset (no {INFO} there); make one with `atlasvla-collect-geometry`."
        )
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    try:
        return LeRobotDataset(config.repo_id, root=root)
    # As below.
    except Exception as error:
        raise PretrainError(f"--dataset_root={root} can't be read: {brief(error)}.") from error


def _collected(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PretrainError(f"{file} is damaged ({brief(error)}): collect the data again.") from error


def _check_features(config: PretrainConfig, features: dict[str, Any], used: list[str]) -> None:
    where = f"--dataset_root={config.dataset_root}"
    for name in used:
        depth, intrinsics, extrinsics = geometry_keys(name)
        if missing := [key for key in (depth, intrinsics, extrinsics) if key not in features]:
            raise PretrainError(
                f"{where} has no {missing[0]}, which pretraining learns from; data with depth and cameras are made by "
                "`atlasvla-collect-geometry`."
            )
        shapes = {key: tuple(features[key]["shape"]) for key in (intrinsics, extrinsics)}
        if shapes != {intrinsics: (3, 3), extrinsics: (4, 4)} or len(features[depth]["shape"]) != 2:
            raise PretrainError(
                f"{where} must have {intrinsics} of shape (3, 3), {extrinsics} of (4, 4) and {depth} of (h, w), got "
                f"{[*shapes.values(), tuple(features[depth]['shape'])]}."
            )
        shown = features.get(object_coordinates_key(name))
        if shown is not None and tuple(shown["shape"]) != (*features[depth]["shape"], 4):
            raise PretrainError(
                f"{where} must have {object_coordinates_key(name)} of shape {(*features[depth]['shape'], 4)}, as its "
                f"depth, got {tuple(shown['shape'])}."
            )
        image = features[f"{OBS_IMAGES}.{name}"]
        if image["dtype"] != "image" or len(image["shape"]) != 3 or image["shape"][2] != 3:
            raise PretrainError(
                f"{where} must have {OBS_IMAGES}.{name} as RGB images of shape (H, W, 3), got {image['dtype']} of "
                f"shape {tuple(image['shape'])}."
            )


def _sizes(
    config: PretrainConfig, features: dict[str, Any], used: list[str]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (H, W) of images and (h, w) of cells, in memory."""
    stored = {name: tuple(features[f"{OBS_IMAGES}.{name}"]["shape"][:2]) for name in used}
    if config.image_size is None and len(set(stored.values())) > 1:
        raise PretrainError(
            f"--dataset_root={config.dataset_root} has images of several sizes, {stored}: choose one with --image_size."
        )
    height, width = config.image_size or stored[used[0]]
    config.check_image_size([height, width])
    cells = (height // config.patch_size * CELLS_PER_SIDE, width // config.patch_size * CELLS_PER_SIDE)
    for name in used:
        depth = tuple(features[geometry_keys(name)[0]]["shape"])
        if any(have % want for have, want in zip(depth, cells, strict=True)):
            raise PretrainError(
                f"--dataset_root={config.dataset_root} has depth of {depth} cells for {name}, which does not divide "
                f"into the {cells} cells of images of {(height, width)} with {CELLS_PER_SIDE} x {CELLS_PER_SIDE} in "
                f"each patch of {config.patch_size} pixels: change --image_size or --patch_size."
            )
    return (height, width), cells


def _resized(images_NHW3: np.ndarray, size: tuple[int, int]) -> Tensor:
    images = torch.as_tensor(images_NHW3)
    if tuple(images.shape[1:3]) == size:
        return images
    return images_functional.resize(images.permute(0, 3, 1, 2), list(size), antialias=True).permute(0, 2, 3, 1)


def _by_cell(values_Nhw: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return what falls into each of fewer cells, ``(N, rows, columns, values, ...)``."""
    rows, columns = cells
    return values_Nhw.unflatten(1, (rows, -1)).unflatten(3, (columns, -1)).transpose(2, 3).flatten(3, 4)


def _pooled(depth_Nhw: np.ndarray, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Median depth of larger cells (at an edge, no mean of near and far), and which of a cell's values it is."""
    return _by_cell(torch.as_tensor(depth_Nhw), cells).median(dim=-1, keepdim=True)


def _set_apart(object_coordinates_NAhw4: Tensor) -> Tensor:
    """Number bodies one after the other, so that distances between places of different ones are large but exact."""
    # In place and state by state, for this is the largest of all tensors.
    numbers = torch.cat([state_Ahw4[..., 3].unique() for state_Ahw4 in object_coordinates_NAhw4]).unique()
    for state_Ahw4 in object_coordinates_NAhw4:
        state_Ahw4[..., 3] = APART_M * torch.searchsorted(numbers, state_Ahw4[..., 3].contiguous()).float()
    return object_coordinates_NAhw4


def _check_numbers(config: PretrainConfig, data: GeometryData, used: list[str]) -> None:
    turned = data.extrinsics_NA44[..., :3, :3]
    identity = torch.eye(3)
    focal = data.intrinsics_NA33.diagonal(dim1=-2, dim2=-1)
    checks = {
        "depth": (data.depth_NAhw > 0) & data.depth_NAhw.isfinite(),
        "camera matrix": data.intrinsics_NA33.isfinite() & (focal != 0)[..., None],
        "camera pose": data.extrinsics_NA44.isfinite(),
        "rotation of the camera": (
            ((turned @ turned.transpose(-1, -2) - identity).abs() < 1e-2)
            & (torch.linalg.det(turned.nan_to_num()) > 0)[..., None, None]
        ),
    }
    if data.object_coordinates_NAhw4 is not None:
        checks["object coordinate"] = data.object_coordinates_NAhw4.isfinite()
    for what, good in checks.items():
        bad = (~good.flatten(2).all(dim=-1)).nonzero()
        if len(bad):
            frame, view = bad[0].tolist()
            raise PretrainError(
                f"--dataset_root={config.dataset_root} has a {what} of {used[view]} in frame {frame} that can't be "
                "(zero, negative, not finite or no rotation): collect the data again."
            )


def scales(config: PretrainConfig, data: GeometryData, states_N: Tensor) -> HeadSizes:
    """Return the sizes of the heads, and their scales as the states to train on have them."""
    rows: dict[str, list[list[float]]] = {"intrinsics": [], "log_depth": [], "point": [], "pose": []}
    base = torch.eye(4).expand(len(states_N), 4, 4)
    first = data.alternatives[0][0]
    reference_N44 = base if config.frame == "base" else data.extrinsics_NA44[states_N, first]
    for views in data.alternatives:
        index = torch.tensor(views)
        depth_NAQ = data.depth_NAhw[states_N][:, index].flatten(2)
        intrinsics_NA33 = data.intrinsics_NA33[states_N][:, index]
        pose_NA44 = torch.linalg.inv(reference_N44)[:, None] @ data.extrinsics_NA44[states_N][:, index]
        points_NAQ3 = points_of(depth_NAQ, intrinsics_NA33, pose_NA44, data.depth_NAhw.shape[2:])
        rotation, translation = pose_NA44[..., :3, :2], pose_NA44[..., :3, 3]
        columns_6 = rotation.mean(dim=(0, 1)).T.flatten()
        rows["intrinsics"].append(intrinsics_NA33.mean(dim=(0, 1)).flatten().tolist())
        rows["log_depth"].append([depth_NAQ.log().mean().item()])
        rows["point"].append(points_NAQ3.mean(dim=(0, 1, 2)).tolist())
        rows["pose"].append([*translation.mean(dim=(0, 1)).tolist(), *columns_6.tolist()])
    return HeadSizes(config.hidden_dim, config.descriptor_dim, CELLS_PER_SIDE, config.frame, rows)


def points_of(depth_XQ: Tensor, intrinsics_X33: Tensor, pose_X44: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Return the points at the middle of each cell ``(X, Q, 3)``, in the frame that the poses lead to."""
    rows, columns = cells
    seen_XQ3 = cell_rays(intrinsics_X33, (rows, columns)) * depth_XQ[..., None]
    return seen_XQ3 @ pose_X44[..., :3, :3].transpose(-1, -2) + pose_X44[..., None, :3, 3]
