"""Do one job of ``eval.full_size`` in a fresh process, so that it has its own peak memory.

``python -m eval.benchmark.full_size.worker --what=data --path=FOLDER`` writes two episodes of random numbers,
``--what=act --path=CHECKPOINT`` loads a checkpoint and acts, ``--what=load`` only loads it, in bfloat16, and
``--what=aggregator --path=WEIGHTS --views=2`` times VGGT alone.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import torch

from eval.benchmark.private_memory import PrivateMemoryWatch, private_gib
from eval.common.commands import GIB
from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.libero.demonstrations.schema import (
    ACTION_DIM,
    ACTION_KEY,
    FPS,
    IMAGE_KEY,
    ROBOT_TYPE,
    STATE_DIM,
    STATE_KEY,
    WRIST_IMAGE_KEY,
    libero_features,
)
from lerobot_atlasvla.weights import backbones

PIXELS = 256
EPISODES = 2
FRAMES = 12
TASK = "pick up the black bowl next to the plate and place it on the plate"
TIMED_FORWARDS = 3


class What(Enum):
    """Name the jobs that a worker can do."""

    data = "data"
    act = "act"
    load = "load"
    aggregator = "aggregator"


@dataclass
class WorkerConfig:
    """Hold the settings of one job."""

    # data: write a dataset; act: load a checkpoint and act; load: memory of loading one; aggregator: time VGGT's.
    what: What
    # data: the folder to write; act, load: the checkpoint's pretrained_model folder; aggregator: VGGT's weights.
    path: Path
    # Where the figures go, as JSON; unset prints them only.
    out: Path | None = None
    # data: the dataset's name.
    repo_id: str = "local/full_size"
    # aggregator: number of views of the one sample.
    views: int = 1
    # aggregator: side of the views in pixels.
    image_size: int = 224
    # aggregator: threads; 0 leaves that to PyTorch.
    threads: int = 0
    # Seed of all random numbers.
    seed: int = 0


def write_data(cfg: WorkerConfig) -> dict[str, Any]:
    """Write short episodes with the published schema and random content."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        cfg.repo_id, fps=FPS, features=libero_features(PIXELS), root=cfg.path, robot_type=ROBOT_TYPE, use_videos=False
    )
    random = np.random.default_rng(cfg.seed)
    for _ in range(EPISODES):
        for _ in range(FRAMES):
            dataset.add_frame(
                {
                    IMAGE_KEY: random.integers(0, 255, (PIXELS, PIXELS, 3), np.uint8),
                    WRIST_IMAGE_KEY: random.integers(0, 255, (PIXELS, PIXELS, 3), np.uint8),
                    STATE_KEY: random.normal(size=STATE_DIM).astype(np.float32),
                    ACTION_KEY: random.uniform(-1, 1, ACTION_DIM).astype(np.float32),
                    "task": TASK,
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return {"episodes": EPISODES, "frames": EPISODES * FRAMES, "pixels": PIXELS}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the seconds of a call."""
    started = time.monotonic()
    result = call()
    return result, time.monotonic() - started


def act(cfg: WorkerConfig) -> dict[str, Any]:
    """Load a checkpoint as a robot's driver does and ask it for actions."""
    from lerobot.policies.factory import make_pre_post_processors

    def ready() -> tuple[AtlasVLAPolicy, Any, Any]:
        policy = AtlasVLAPolicy.from_pretrained(cfg.path)
        return policy, *make_pre_post_processors(policy.config, str(cfg.path))

    (policy, preprocess, postprocess), load_s = timed(ready)
    generator = torch.Generator().manual_seed(cfg.seed)
    observation = {
        IMAGE_KEY: torch.rand(3, PIXELS, PIXELS, generator=generator),
        WRIST_IMAGE_KEY: torch.rand(3, PIXELS, PIXELS, generator=generator),
        STATE_KEY: torch.randn(STATE_DIM, generator=generator),
        "task": TASK,
    }

    def step() -> torch.Tensor:
        return postprocess(policy.select_action(preprocess(dict(observation))))

    policy.reset()
    first, first_s = timed(step)
    queued, queued_s = timed(step)
    # Empties the queue, so that the next call predicts again; the instruction is known by now.
    policy.reset()
    second, second_s = timed(step)
    actions = torch.stack((first, queued, second))
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return {
        "load_s": load_s,
        "first_action_s": first_s,
        "second_action_s": second_s,
        "queued_action_s": queued_s,
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "all_parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "trained_finite": all(bool(parameter.isfinite().all()) for parameter in trained),
        "actions_finite": bool(actions.isfinite().all()),
        "action_shape": list(first.shape),
        "action": first.flatten().tolist(),
    }


def load(cfg: WorkerConfig) -> dict[str, Any]:
    """Measure the memory of loading a checkpoint with float32 backbones that are wanted in bfloat16, as on a GPU."""
    from lerobot.configs.policies import PreTrainedConfig

    config: Any = PreTrainedConfig.from_pretrained(cfg.path)
    config.backbone_dtype = "bfloat16"
    with PrivateMemoryWatch() as memory:
        policy, load_s = timed(lambda: AtlasVLAPolicy.from_pretrained(cfg.path, config=config))
    weights = sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers()))
    return {
        "load_s": load_s,
        "weights_gib": weights / GIB,
        "before_gib": memory.before_gib,
        "peak_gib": memory.peak_gib,
        "after_gib": memory.after_gib,
        "ratio": (memory.peak_gib - memory.before_gib) / (memory.after_gib - memory.before_gib),
    }


def time_aggregator(cfg: WorkerConfig) -> dict[str, Any]:
    """Time a forward pass of VGGT's aggregator alone, in float32 on the CPU, weights read as the policy does."""
    from accelerate import init_empty_weights

    from lerobot_atlasvla.model.geometry.vggt import Aggregator

    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    config = AtlasVLAConfig(
        device="cpu", vggt_model=str(cfg.path), image_size=(cfg.image_size, cfg.image_size), push_to_hub=False
    )
    with init_empty_weights():
        aggregator = Aggregator()
    _, load_s = timed(lambda: backbones.read(config, "vggt", aggregator, backbones.resolve(config, "vggt")))
    aggregator.eval()
    generator = torch.Generator().manual_seed(cfg.seed)
    views = torch.rand(1, cfg.views, 3, cfg.image_size, cfg.image_size, generator=generator)
    with torch.inference_mode():
        runs = [timed(lambda: aggregator(views, config.vggt_output_layers)) for _ in range(1 + TIMED_FORWARDS)]
    (_, warm_up_s), *rest = runs
    last = runs[-1][0].layers[-1]
    return {
        "views": cfg.views,
        "image_size": cfg.image_size,
        "threads": torch.get_num_threads(),
        "load_s": load_s,
        "warm_up_s": warm_up_s,
        "forward_s": [seconds for _, seconds in rest],
        "median_forward_s": statistics.median(seconds for _, seconds in rest),
        "private_gib": private_gib(),
        "parameters": sum(parameter.numel() for parameter in aggregator.parameters()),
        "output_shape": list(last.shape),
        "finite": bool(last.isfinite().all()),
    }


@draccus.wrap()
def main(cfg: WorkerConfig) -> None:
    """Do one job; the figures are the last line of output and in ``out``."""
    jobs = {What.data: write_data, What.act: act, What.load: load, What.aggregator: time_aggregator}
    figures = json.dumps(jobs[cfg.what](cfg))
    if cfg.out is not None:
        cfg.out.write_text(figures + "\n")
    sys.stdout.write(f"{figures}\n")


if __name__ == "__main__":
    main()
