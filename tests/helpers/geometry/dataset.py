"""A LeRobotDataset of views with depth and known cameras: a textured floor, seen exactly as pinhole cameras see it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

REPO_ID = "local/geometry"
PIXELS = 32
CELLS = 8
VIEWS = ("wrist", "scene_0", "scene_1")
# Mirrored pictures, as LIBERO's are: a negative focal length.
SLIDES_FROM = 0.5
FOCAL = {"wrist": 20.0, "scene_0": 40.0, "scene_1": 40.0}


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) from the camera (OpenCV axes) to the base's frame, z up."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def intrinsics(view: str) -> np.ndarray:
    focal = FOCAL[view]
    return np.array([[-focal, 0, PIXELS / 2], [0, focal, PIXELS / 2], [0, 0, 1]])


def see_floor(view: str, pose: np.ndarray, side: int, slide: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, parts (side, side, 4) and color of the floor z = 0 at the middle of each pixel or cell."""
    at = (np.indices((side, side)) + 0.5) * PIXELS / side
    rays = np.stack([at[1], at[0], np.ones((side, side))], axis=-1) @ np.linalg.inv(intrinsics(view)).T
    turned = rays @ pose[:3, :3].T
    depth = -pose[2, 3] / np.minimum(turned[..., 2], -1e-3)
    points = pose[:3, 3] + turned * depth[..., None]
    slides = points[..., 0] > SLIDES_FROM
    points[..., 1] -= slide * slides
    checks = np.stack([np.sin(9 * points[..., 0]), np.cos(7 * points[..., 1]), np.sin(5 * points[..., :2].sum(-1))], -1)
    parts = np.concatenate([points, np.where(slides, 9.0, 4.0)[..., None]], axis=-1)
    return depth, parts, np.clip(127 + 100 * checks, 0, 255)


def write_geometry_dataset(
    root: Path,
    *,
    episodes: int = 6,
    frames: int = 4,
    seed: int = 0,
    views: Sequence[str] = VIEWS,
    drop: str = "",
    objects: bool = False,
) -> Path:
    """Random cameras above a floor; ``drop`` leaves a feature out.

    With ``objects``, the data tell what is where: the floor's right half (x > 0.5 m) is a body of its own, which slides
    along y from frame to frame, and its pattern with it.
    """
    features = {
        "observation.state": {"dtype": "float32", "shape": (8,), "names": [f"state_{i}" for i in range(8)]},
        "action": {"dtype": "float32", "shape": (7,), "names": [f"action_{i}" for i in range(7)]},
    }
    for view in views:
        features |= {
            f"observation.images.{view}": {
                "dtype": "image",
                "shape": (PIXELS, PIXELS, 3),
                "names": ["height", "width", "channel"],
            },
            f"observation.depth.{view}": {"dtype": "float32", "shape": (CELLS, CELLS), "names": ["row", "column"]},
            f"observation.cameras.{view}.intrinsics": {"dtype": "float32", "shape": (3, 3), "names": ["row", "column"]},
            f"observation.cameras.{view}.extrinsics": {"dtype": "float32", "shape": (4, 4), "names": ["row", "column"]},
        }
        if objects:
            shape = (CELLS, CELLS, 4)
            features[f"observation.object_coordinates.{view}"] = {
                "dtype": "float32",
                "shape": shape,
                "names": list("rcp"),
            }
    features.pop(drop, None)
    dataset = LeRobotDataset.create(REPO_ID, fps=20, features=features, root=root, use_videos=False)
    random = np.random.default_rng(seed)
    for _ in range(episodes):
        for _ in range(frames):
            slide = random.uniform(-0.2, 0.2) if objects else 0.0
            target = np.array([0.5, 0.0, 0.0]) + random.normal(0, 0.05, 3) * [1, 1, 0]
            frame = {
                "observation.state": random.normal(size=8).astype(np.float32),
                "action": random.uniform(-1, 1, 7).astype(np.float32),
                "task": "look around",
            }
            for view in views:
                spread = 0.03 if view == "wrist" else 0.2
                start = [0.45, 0.02, 0.25] if view == "wrist" else [1.2, 0.0, 0.8]
                pose = look_at(np.array(start) + random.uniform(-spread, spread, 3), target)
                depth, shown, _ = see_floor(view, pose, CELLS, slide)
                _, _, color = see_floor(view, pose, PIXELS, slide)
                frame |= {
                    f"observation.images.{view}": color.astype(np.uint8),
                    f"observation.depth.{view}": depth.astype(np.float32),
                    f"observation.object_coordinates.{view}": shown.astype(np.float32),
                    f"observation.cameras.{view}.intrinsics": intrinsics(view).astype(np.float32),
                    f"observation.cameras.{view}.extrinsics": pose.astype(np.float32),
                }
            dataset.add_frame({key: value for key, value in frame.items() if key in features or key == "task"})
        dataset.save_episode()
    dataset.finalize()
    return root
