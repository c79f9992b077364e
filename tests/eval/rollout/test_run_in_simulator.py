"""eval.run with a real simulator: a run killed and continued, rollouts that depend on nothing around them, videos."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eval.rollout.run_folder import read_run
from eval.rollout.simulator import exported
from eval.rollout.workers.worker import RolloutJob, Task, WorkerSettings
from eval.rollout.workers.worker_pool import Schedule, WorkerPool
from lerobot_atlasvla.libero.assets import _ENV_RESOLVED, ENV_ASSETS
from tests.helpers import ROOT
from tests.helpers.released import save_checkpoint
from tests.helpers.small_checkpoints import SMALL_ACT

PIXELS = 32
FILMED = 96
STEPS = 12
# LIBERO draws the pose of this task's cabinet at every reset.
DRAWER = Task("libero_spatial", 4, "pick up the black bowl in the top drawer of the wooden cabinet")
STAND_IN = {ENV_ASSETS: "stand-in", _ENV_RESOLVED: "", "ATLASVLA_LIBERO_RENDER_QUALITY": "fast"}
CAMERAS = {"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"}


def command(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "eval.run"),
        f"--checkpoint={checkpoint}",
        f"--output_dir={out}",
        "--task_ids=[4]",
        "--episodes=2",
        "--workers=1",
        f"--episode_length={STEPS}",
        f"--image_size={PIXELS}",
        f"--video_size={FILMED}",
        "--device=cpu",
        "--videos=1",
        *more,
    ]


def frames_of(video: Path) -> list[np.ndarray]:
    import av

    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
def test_a_killed_run_is_continued_by_the_same_command(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", n_action_steps=5)
    out = tmp_path / "out"
    environment = os.environ | STAND_IN
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(checkpoint, out, "--overlay=true"), cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )
        lines = out / "rollouts.jsonl"
        for _ in range(60_000):
            if process.poll() is not None or (lines.exists() and lines.read_bytes()):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()
    first = read_run(out)
    assert [rollout.init_state for rollout in first.rollouts] == [0]
    kept = lines.read_bytes()
    lines.write_bytes(kept + b'{"suite": "libero')  # as if it had been killed while writing
    description = (out / "run.json").read_bytes()

    done = subprocess.run(
        command(checkpoint, out, "--overlay=true"), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "total: 0/2 = 0.0 % [0.0, 65.8]"
    assert (out / "run.json").read_bytes() == description
    assert lines.read_bytes().startswith(kept)
    rollouts = read_run(out).rollouts
    assert [(r.task_id, r.init_state, r.success, r.steps) for r in rollouts] == [(4, n, False, STEPS) for n in (0, 1)]
    assert rollouts[0].instruction.startswith(DRAWER.instruction)
    assert json.loads(description)["policy"]["parameters"] > 10_000
    assert json.loads(description)["simulator"]["assets"] == "stand-in"

    # One failure is filmed: the state after the reset and after every step; the scene, and beside it the attention.
    assert [rollout.video for rollout in rollouts] == ["videos/libero_spatial-04-seed1000-000-failure.mp4", None]
    frames = frames_of(out / str(rollouts[0].video))
    assert len(frames) == STEPS + 1
    assert frames[0].shape == (FILMED + 16, 2 * FILMED, 3)
    scene, attention = frames[0][:FILMED, :FILMED], frames[0][:FILMED, FILMED:]
    assert np.abs(scene.astype(int) - attention).mean() > 10
    red, green, blue = frames[0][FILMED:].mean(axis=(0, 1))
    assert red > 2 * max(green, blue) > 0


def outcomes(settings: WorkerSettings, jobs: list[RolloutJob], workers: int, **environment: str) -> dict:
    names = {"ATLASVLA_LIBERO_DETERMINISTIC_RESET": "1", "OMP_NUM_THREADS": "1"}
    with exported(STAND_IN | names | environment), WorkerPool(workers, settings) as pool:
        return {outcome.rollout.init_state: outcome for outcome in pool.roll_out(Schedule(jobs), lambda job: job)}


@pytest.mark.slow
def test_a_rollout_depends_on_nothing_around_it(tmp_path):
    """One worker and two, every picture and only those needed, after other rollouts and alone: bit for bit the same."""
    # Flow starts from noise, so that a shared stream of random numbers would show.
    settings = WorkerSettings(
        checkpoint=save_checkpoint(tmp_path / "checkpoint", n_action_steps=5, head="flow"),
        device="cpu",
        overrides={"n_action_steps": 4},
        output_dir=tmp_path / "out",
        cameras=CAMERAS,
        settle_steps=3,
        init_states=True,
        image_size=PIXELS,
        video_size=FILMED,
        episode_length=STEPS,
        threads=1,
        overlay=False,
    )
    jobs = [RolloutJob(DRAWER, seed=7, init_state=state) for state in range(3)]
    every = outcomes(settings, jobs, 1, ATLASVLA_LIBERO_RENDER_EVERY="1", ATLASVLA_LIBERO_CULL="0")
    needed = outcomes(settings, jobs[::-1], 2, ATLASVLA_LIBERO_RENDER_EVERY="4", ATLASVLA_LIBERO_CULL="1")
    assert every.keys() == needed.keys() == {0, 1, 2}
    for state, outcome in every.items():
        assert outcome.rollout.steps == needed[state].rollout.steps == STEPS
        np.testing.assert_array_equal(outcome.final_state, needed[state].final_state)
    # The comparison can tell rollouts apart, and a policy that acts on old pictures from one that does not.
    assert not np.array_equal(every[0].final_state, every[1].final_state)
    blind = outcomes(settings, jobs[:1], 1, ATLASVLA_LIBERO_RENDER_EVERY="5")
    assert not np.array_equal(blind[0].final_state, every[0].final_state)


@pytest.mark.slow
def test_any_policy_of_lerobot(tmp_path):
    """ACT with one camera, which is moved."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    config = ACTConfig(
        input_features={
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)),
            "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        **SMALL_ACT,
        chunk_size=6,
        n_action_steps=6,
        push_to_hub=False,
    )
    torch.manual_seed(0)
    checkpoint = tmp_path / "checkpoint"
    ACTPolicy(config).save_pretrained(checkpoint)
    stats = {
        name: {"mean": torch.zeros(size), "std": torch.ones(size)}
        for name, size in (("observation.state", 8), ("action", 7))
    }
    stats["observation.images.front"] = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)}
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(checkpoint)
    out = tmp_path / "out"
    done = subprocess.run(
        command(checkpoint, out, "--episodes=1", "--n_action_steps=3", "--right_cm=10"),
        cwd=ROOT,
        env=os.environ | STAND_IN,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = read_run(out)
    assert (run.policy["type"], run.policy["n_action_steps"], run.policy["chunk_size"]) == ("act", 3, 6)
    assert run.settings["cameras"] == {"agentview_image": "front"}
    assert [rollout.steps for rollout in run.rollouts] == [STEPS]
    assert frames_of(out / str(run.rollouts[0].video))[0].shape == (FILMED + 16, FILMED, 3)
    # Weights that were cut off: said in one line.
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    damaged = subprocess.run(
        command(checkpoint, tmp_path / "damaged", "--episodes=1"),
        cwd=ROOT,
        env=os.environ | STAND_IN,
        capture_output=True,
        text=True,
    )
    assert damaged.returncode == 1
    assert f"--checkpoint={checkpoint} cannot be loaded" in damaged.stderr
    assert "Traceback" not in damaged.stderr
