"""Exports that several tests read, made once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.policies import make_pre_post_processors

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.export.exporter import export
from lerobot_atlasvla.export.settings import ExportConfig
from tests.conftest import IMAGE, STATE, STATE_DIM, TASK, WRIST
from tests.helpers.released import save_checkpoint

INSTRUCTIONS = [TASK, "open it"]
CAMERAS = {IMAGE: (40, 60), WRIST: (32, 32)}


@dataclass
class Exported:
    checkpoint: Path
    folder: Path
    about: dict


def make(folder: Path, *, checkpoint: dict | None = None, **settings) -> Exported:
    source = save_checkpoint(folder / "checkpoint", **(checkpoint or {}))
    settings = {"instructions": INSTRUCTIONS, "output_dir": folder / "out"} | settings
    return Exported(source, folder / "out", export(ExportConfig(checkpoint=source, **settings)))


def observation(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    images = {key: random.integers(0, 256, (*size, 3), np.uint8) for key, size in CAMERAS.items()}
    return images, random.normal(size=STATE_DIM).astype(np.float32)


def from_pytorch(checkpoint: Path, images: dict, state: np.ndarray, instruction: str) -> np.ndarray:
    """The chunk that LeRobot's own calls give."""
    policy = AtlasVLAPolicy.from_pretrained(checkpoint)
    before, after = make_pre_post_processors(policy.config, str(checkpoint))
    batch = {key: torch.from_numpy(image).permute(2, 0, 1).float() / 255 for key, image in images.items()}
    chunk = policy.predict_action_chunk(before(batch | {STATE: torch.from_numpy(state), "task": instruction}))
    return after(chunk)[0].numpy()


@pytest.fixture(scope="session")
def two_cameras(tmp_path_factory) -> Exported:
    """Late fusion, one camera of another size than in training."""
    sizes = {IMAGE: list(CAMERAS[IMAGE])}
    return make(tmp_path_factory.mktemp("two_cameras"), image_sizes=sizes, checkpoint={"n_action_steps": 4})


@pytest.fixture(scope="session")
def blind(tmp_path_factory) -> Exported:
    """No camera; the smallest graph."""
    return make(tmp_path_factory.mktemp("blind"), checkpoint={"views": "none"})
