"""Through LeRobot's own commands: train, resume, reload, and a few steps of a rollout in LIBERO."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import TASK
from tests.helpers import ROOT
from tests.helpers.commands import run_command, succeed
from tests.helpers.random_dataset import PIXELS, REPO_ID

TINY = [
    "--config_path=configs/policy/atlasvla_tiny.yaml",
    f"--policy.image_size=[{PIXELS},{PIXELS}]",
    "--policy.vggt_embed_dim=32",
    "--policy.decoder_hidden_size=32",
    "--policy.device=cpu",
    f"--dataset.repo_id={REPO_ID}",
    "--batch_size=4",
    "--num_workers=0",
    "--log_freq=1",
]


@pytest.fixture(scope="module")
def trained(dataset_root, tmp_path_factory):
    """Two steps of training, each with a checkpoint."""
    output = tmp_path_factory.mktemp("train") / "run"
    log = succeed(
        "lerobot-train", *TINY, f"--dataset.root={dataset_root}", f"--output_dir={output}", "--steps=2", "--save_freq=2"
    )
    return output, log


def test_two_steps_of_training_leave_a_checkpoint(trained):
    output, log = trained
    saved = output / "checkpoints/last/pretrained_model"
    assert json.loads((saved / "config.json").read_text())["type"] == "atlasvla"
    assert "RANDOM weights" in log
    assert "l1_loss" in log


@pytest.mark.slow
def test_a_rollout_of_a_few_steps_in_libero(trained, tmp_path):
    output, _ = trained
    succeed(
        "lerobot-eval",
        f"--policy.path={output}/checkpoints/000002/pretrained_model",
        "--policy.device=cpu",
        "--env.type=libero",
        "--env.task=libero_spatial",
        "--env.task_ids=[0]",
        "--env.episode_length=12",
        f"--env.observation_height={PIXELS}",
        f"--env.observation_width={PIXELS}",
        '--env.camera_name_mapping={"agentview_image":"image","robot0_eye_in_hand_image":"wrist_image"}',
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={tmp_path / 'eval'}",
    )
    info = json.loads((tmp_path / "eval/eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1
    (task,) = info["per_task"]
    assert Path(task["metrics"]["video_paths"][0]).stat().st_size > 1000


@pytest.mark.parametrize("trained_on", ["cpu", "cuda"])
def test_the_robot_loop_of_the_readme(trained, tmp_path, trained_on):
    """The lines in README.md, run as they stand, on one observation as a robot's driver would hand it over."""
    output, _ = trained
    checkpoint = tmp_path / "pretrained_model"
    shutil.copytree(output / "checkpoints/000002/pretrained_model", checkpoint)
    # The postprocessor ends on the CPU wherever the policy runs.
    for file in (checkpoint / name for name in ("config.json", "train_config.json", "policy_preprocessor.json")):
        file.write_text(file.read_text().replace('"device": "cpu"', f'"device": "{trained_on}"'))
    assert f'"{trained_on}"' in (checkpoint / "policy_preprocessor.json").read_text()
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    observation = {
        "observation.images.image": torch.rand(3, 48, 64),
        "observation.images.wrist_image": torch.rand(3, PIXELS, PIXELS),
        "observation.state": torch.zeros(8),
        "task": TASK,
    }
    names = {"path": str(checkpoint), "observation": observation}
    exec(code, names)
    assert names["action"].shape == (1, 7)
    assert names["action"].device.type == "cpu"
    assert names["action"].isfinite().all()


def test_a_bad_flag_is_explained_before_anything_is_written(tmp_path):
    done = run_command("lerobot-train", *TINY, "--policy.chunk_size=5", f"--output_dir={tmp_path / 'out'}")
    assert done.returncode != 0
    assert "n_action_steps must lie in 1 .. chunk_size = 5, got 10 (--policy.n_action_steps" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_camera_name_is_explained(trained, tmp_path):
    output, _ = trained
    done = run_command(
        "lerobot-eval",
        f"--policy.path={output}/checkpoints/000002/pretrained_model",
        "--policy.device=cpu",
        "--env.type=libero",
        "--env.task=libero_spatial",
        "--env.task_ids=[0]",
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert done.returncode != 0
    assert "observation.images.wrist_image" in done.stderr
    assert "rename_map" in done.stderr
