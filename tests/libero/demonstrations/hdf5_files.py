"""Tiny HDF5 files in LIBERO's layout, and what conversion makes of them."""

import json
from pathlib import Path

import h5py
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla.libero.demonstrations.convert_settings import ConvertConfig

REPO_ID = "test/converted"
PIXELS = 8
INSTRUCTION = "Pick the akita black bowl and place it on the plate"
BDDL = "somewhere/bddl_files/libero_spatial/pick_up_the_black_bowl_and_place_it_on_the_plate.bddl"
STEM = "pick_up_the_black_bowl_and_place_it_on_the_plate"
TASK = "pick up the black bowl and place it on the plate"


def make_demo(seed: int = 0, rows: int = 6, pixels: int = PIXELS) -> dict[str, np.ndarray]:
    """One demonstration with random content; simulator states as in a file whose observations come before actions."""
    random = np.random.default_rng(seed)
    joints = np.linspace(0, 1, rows)[:, None] + random.normal(size=7)
    return {
        "actions": random.uniform(-1, 1, (rows, 7)),
        "states": np.concatenate([np.arange(rows)[:, None] / 20, joints, random.normal(size=(rows, 12))], axis=1),
        "obs/agentview_rgb": random.integers(0, 256, (rows, pixels, pixels, 3), dtype=np.uint8),
        "obs/eye_in_hand_rgb": random.integers(0, 256, (rows, pixels, pixels, 3), dtype=np.uint8),
        "obs/ee_states": random.normal(size=(rows, 6)),
        "obs/gripper_states": random.normal(size=(rows, 2)),
        "obs/joint_states": joints,
    }


def write_file(path: Path, demos: list[dict[str, np.ndarray]], attributes: dict[str, str] | None = None) -> Path:
    """Write demonstrations as ``demo_0``, ``demo_1``, ...

    ``attributes`` replace LIBERO's own; an empty dict gives a file without any, as OpenVLA's are.
    """
    if attributes is None:
        attributes = {
            "problem_info": json.dumps({"problem_name": "p", "language_instruction": INSTRUCTION}),
            "env_args": json.dumps({"env_name": "e", "env_kwargs": {}}),
            "bddl_file_name": BDDL,
            "macros_image_convention": "opengl",
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(attributes)
        for number, arrays in enumerate(demos):
            demo = data.create_group(f"demo_{number}")
            for key, value in arrays.items():
                demo[key] = value
            if attributes:
                demo.attrs["num_samples"] = len(arrays.get("actions", ()))
        if attributes:
            data.attrs["num_demos"] = len(demos)
    return path


def config(root: Path, source: Path, /, **overrides) -> ConvertConfig:
    return ConvertConfig(**({"root": root, "repo_id": REPO_ID, "folder": source, "save_every": 2} | overrides))


def load(root: Path) -> LeRobotDataset:
    return LeRobotDataset(REPO_ID, root=root)


def first_actions(root: Path) -> list[float]:
    dataset = load(root)
    starts = [dataset.meta.episodes[e]["dataset_from_index"] for e in range(dataset.num_episodes)]
    assert len(dataset) == sum(dataset.meta.episodes[e]["length"] for e in range(dataset.num_episodes))
    return [float(dataset[start]["action"][0]) for start in starts]


def expected_first_actions(*seeds: int) -> list[float]:
    return [float(np.float32(make_demo(seed)["actions"][0, 0])) for seed in seeds]


def four_demos(folder: Path) -> Path:
    """A folder with one file of four demonstrations, seeds 0 to 3."""
    write_file(folder / f"{STEM}_demo.hdf5", [make_demo(seed) for seed in range(4)])
    return folder
