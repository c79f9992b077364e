"""``python -m eval.benchmark.reading_speed`` times LeRobot's reader per training sample, with chunks and without.

The same frames of one dataset are read in both ways, in turn, in one process: with the steps of a chunk read by LeRobot
(``--policy.actions_in_memory=false``, and every other policy that predicts chunks), and one row per sample
(``actions_in_memory=true``). What a policy then does with them is not part of it; looking a chunk up in memory is timed
beside it.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION

from eval.benchmark.harness import environment
from eval.common.cli import run_command
from eval.common.errors import EvalError, check_at_least
from eval.common.markdown import origin, table
from eval.report.data import publish
from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.inputs import INDEX
from lerobot_atlasvla.training.action_chunks import InMemoryActions

NOTE = """One process without workers, images in memory after the first round, which does not count. *Read* is
`dataset[i]` of LeRobot: from Parquet and PNG or video to tensors. *Look up* is what replaces the chunk: the actions of
a batch of 64 from memory, per sample."""
BATCH = 64


@dataclass
class ReadingConfig:
    """Time how fast LeRobot's reader gives training samples, with chunks of actions and without."""

    # Folder of the dataset.
    root: Path
    # Its name.
    repo_id: str = "local/dataset"
    # Chunks of this many actions.
    chunk_sizes: list[int] = field(default_factory=lambda: [10, 50])
    # Frames, drawn at random.
    samples: int = 200
    # Times that each frame is read in each way; the first one does not count.
    rounds: int = 4
    # Of the frames that are drawn.
    seed: int = 0
    # Folder of the report, in --reports.
    name: str = "benchmark-reading"
    # Folder of all reports.
    reports: Path = Path("eval/results")

    def check(self) -> None:
        """Check the flags before anything is measured.

        Raises:
            EvalError: Naming the flag.
        """
        if not (self.root / "meta/info.json").is_file():
            raise EvalError(f"{self.root} is no LeRobotDataset: it has no meta/info.json (--root).")
        check_at_least(self, samples=1, rounds=2)
        if not self.chunk_sizes or min(self.chunk_sizes) < 1:
            raise EvalError(f"--chunk_sizes must be whole numbers from 1 on, got {self.chunk_sizes}.")


def measure(cfg: ReadingConfig) -> dict[str, Any]:
    """Milliseconds per sample: medians over frames and rounds, and of each round."""
    torch.set_num_threads(1)
    single = LeRobotDataset(cfg.repo_id, root=cfg.root)
    readers = {"one row": single}
    for size in cfg.chunk_sizes:
        seconds = {ACTION: [step / single.fps for step in range(size)]}
        readers[f"chunk of {size}"] = LeRobotDataset(cfg.repo_id, root=cfg.root, delta_timestamps=seconds)
    frames = np.random.default_rng(cfg.seed).integers(0, len(single), cfg.samples).tolist()
    rounds: dict[str, list[list[float]]] = {name: [] for name in readers}
    for _ in range(cfg.rounds):
        for name, reader in readers.items():
            rounds[name].append([_milliseconds(reader, frame) for frame in frames])
    figures = {}
    for name, every in rounds.items():
        counted = np.array(every[1:])
        figures[name] = {
            "median_ms": float(np.median(counted)),
            "round_medians_ms": np.median(counted, axis=1).tolist(),
            "p95_ms": float(np.percentile(counted, 95)),
        }
    cameras = single.meta.camera_keys
    return {
        "ms": figures,
        "look_up_us": _look_up_us(single, max(cfg.chunk_sizes)),
        "frames": len(single),
        "cameras": {key: list(single.meta.features[key]["shape"]) for key in cameras},
        "stored_as": "video" if single.meta.video_keys else "images",
    }


def _milliseconds(dataset: LeRobotDataset, frame: int) -> float:
    started = time.perf_counter()
    dataset[frame]
    return (time.perf_counter() - started) * 1e3


def _look_up_us(dataset: LeRobotDataset, chunk_size: int) -> float:
    """Microseconds per sample to take chunks from memory."""
    config = AtlasVLAConfig(chunk_size=chunk_size, n_action_steps=1, actions_in_memory=True, device="cpu")
    config.normalization_mapping = {"ACTION": NormalizationMode.IDENTITY}
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, dataset.meta.features[ACTION]["shape"])}
    actions = InMemoryActions.read(config, dataset.meta)
    rows: list[Any] = [dataset[frame] for frame in range(min(BATCH, len(dataset)))]
    batch = {key: torch.stack([row[key] for row in rows]) for key in (ACTION, INDEX)}
    times = []
    for _ in range(50):
        started = time.perf_counter()
        actions.chunks(batch)
        times.append((time.perf_counter() - started) / len(rows) * 1e6)
    return statistics.median(times)


def reading_page(cfg: ReadingConfig, values: Mapping[str, Any], command: str, environment: Mapping[str, str]) -> str:
    """Return ``report.md``: the times of each way of reading, and what was read."""
    base = values["ms"]["one row"]["median_ms"]
    rows = []
    for name, one in values["ms"].items():
        each = ", ".join(f"{ms:.2f}" for ms in one["round_medians_ms"])
        rows.append((name, f"{one['median_ms']:.2f}", each, f"{one['p95_ms']:.2f}", f"{one['median_ms'] / base:.1f}"))
    images = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in values["cameras"].items())
    lines = ["# Reading training samples", "", f"`{verdict(values)}`", "", *NOTE.splitlines(), ""]
    lines += [f"{values['frames']:,} frames, {cfg.samples} of them read; stored as {values['stored_as']}: {images}."]
    lines += [""]
    lines += table(("read", "ms a sample: median", "of each round", "P95", "times one row"), rows)
    lines += ["", f"Look up: {values['look_up_us']:.1f} microseconds a sample.", ""]
    return "\n".join([*lines, *origin([f"`{command}`"], environment)])


def verdict(values: Mapping[str, Any]) -> str:
    """Return the result in one line: the time of one row, and the others as multiples of it."""
    medians = {name: one["median_ms"] for name, one in values["ms"].items()}
    base = medians.pop("one row")
    others = ", ".join(f"{name} {median / base:.1f} times" for name, median in medians.items())
    return f"reading: one row {base:.2f} ms; {others}"


def run(cfg: ReadingConfig, command: str) -> None:
    """Measure and write the report."""
    cfg.check()
    found = environment()
    values = measure(cfg)
    content = {"settings": draccus.encode(cfg), "figures": values, "commands": [command], "environment": found}
    page = publish(cfg.reports / cfg.name, "reading", content, reading_page(cfg, values, command, found))
    sys.stdout.write(f"{verdict(values)}, report {page}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, or 1 for a setting that can't work."""
    return run_command("eval.benchmark.reading_speed", ReadingConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
