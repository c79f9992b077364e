"""Run folders as ``eval.run`` writes them, with rollouts made up."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.rollout.run_folder import Rollout, Run, open_log, write_run
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift

INSTRUCTIONS = {0: "pick up the bowl", 3: "open the drawer"}


def rollouts_of(task_id: int, outcomes: Sequence[int], seed: int = 1000, **changes: Any) -> list[Rollout]:
    """One rollout per outcome: the steps of a success, or 0 for a failure (of 280 steps)."""
    common = {"suite": "libero_spatial", "task_id": task_id, "instruction": INSTRUCTIONS[task_id], "seed": seed}
    return [
        Rollout(**common | {"init_state": i, "success": steps > 0, "steps": steps or 280, "wall_s": 2.0} | changes)
        for i, steps in enumerate(outcomes)
    ]


def make_run(
    path: Path,
    rollouts: Sequence[Rollout],
    settings: Mapping[str, Any] | None = None,
    simulator: Mapping[str, str] | None = None,
    training: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder that asks for tasks 0 and 3, four states each, and return it."""
    run = Run(
        name=path.name,
        command="python -m eval.run --checkpoint=outputs/train --output_dir=outputs/" + path.name,
        policy={"checkpoint": "outputs/train", "type": "atlasvla", "parameters": 1234, "n_action_steps": 10}
        | dict(policy or {}),
        training=None if training is None else dict(training),
        settings={
            "suites": ["libero_spatial"],
            "task_ids": [0, 3],
            "seeds": [1000],
            "episodes": 4,
            "n_action_steps": 10,
            "settle_steps": 10,
            "init_states": True,
            "image_size": 256,
            "episode_length": None,
            "fast_render": True,
            "look": "default",
            "camera_shift": asdict(CameraShift()),
            "displace_cm": 0.0,
            "retreat_steps": 0,
            "cameras": {"agentview_image": "image"},
        }
        | dict(settings or {}),
        versions={"commit": "abc123", "python": "3.12.1", "lerobot": "0.6.1"},
        simulator={"mujoco": "3.3.2", "gl": "egl", "look": "default", "assets": "official", "assets_note": ""}
        | dict(simulator or {}),
        path=path,
    )
    write_run(run)
    with open_log(path) as log:
        for rollout in rollouts:
            log.append(rollout)
    return path


TRAINING = {
    "steps": 6000,
    "batch_size": 64,
    "seed": 7,
    "dataset": {"repo_id": "local/spatial"},
    "episodes": 40,
    "frames": 5000,
    "policy": {"type": "atlasvla", "chunk_size": 10},
    "command": "lerobot-train --config_path=configs/policy/atlasvla_tiny.yaml",
    "loss_curve": [[100, 0.5], [200, 0.25]],
}
