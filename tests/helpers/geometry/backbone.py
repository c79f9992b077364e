"""A folder as atlasvla-pretrain leaves it, of random weights."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lerobot_atlasvla.model.geometry.record import GeometryRecord, HeadSizes
from lerobot_atlasvla.pretraining.network import PretrainingNetwork
from tests.conftest import PIXELS

INTRINSICS = [-1.25, 0, 0.5, 0, 1.25, 0.5, 0, 0, 1]
POSE = [0.1, 0.2, 0.3, 1, 0, 0, 0, 1, 0]


def record(*views: str, frame: str = "first_view", heads: bool = True, **sizes) -> GeometryRecord:
    """Three patches wide and high would be too few for a test of rows and columns: 4 x 4 of 8 pixels."""
    names = views or ("wrist", "scene")
    statistics = {"intrinsics": INTRINSICS, "log_depth": [0.0], "point": [0.0, 0.0, 1.0], "pose": POSE}
    rows = {name: [list(map(float, row)) for _ in names] for name, row in statistics.items()}
    values = {"patch_embed": "conv_stem", "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return GeometryRecord(
        **(values | {"num_register_tokens": 2, "image_size": (PIXELS, PIXELS)} | sizes),
        views=names,
        heads=HeadSizes(16, 6, 2, frame, rows) if heads else None,
    )


def write_backbone(folder: Path, *views: str, seed: int = 3, **settings) -> Path:
    """Weights and record."""
    folder.mkdir(parents=True, exist_ok=True)
    made = record(*views, **settings)
    torch.manual_seed(seed)
    network = PretrainingNetwork(made)
    save_file(network.released(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(made.to_json()))
    return folder
