"""What `lerobot-train` offers around the policy: exact resume, curves, data options, several processes, rollouts."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import ACTION_DIM, raw_batch
from tests.helpers.commands import succeed
from tests.integration.test_train_and_eval import PIXELS, TINY

LIBERO = [
    "--env.type=libero",
    "--env.task=libero_spatial",
    "--env.task_ids=[0]",
    "--env.episode_length=10",
    f"--env.observation_height={PIXELS}",
    f"--env.observation_width={PIXELS}",
    '--env.camera_name_mapping={"agentview_image":"image","robot0_eye_in_hand_image":"wrist_image"}',
    "--eval.n_episodes=1",
    "--eval.batch_size=1",
]


def train(dataset, output: Path, *arguments: str, steps: int = 2) -> str:
    return succeed(
        "lerobot-train", *TINY, f"--dataset.root={dataset}", f"--output_dir={output}", f"--steps={steps}", *arguments
    )


def curves(output: Path) -> dict[str, list[tuple[int, float]]]:
    """Curve -> its (step, value) pairs, read as TensorBoard reads them."""
    reader = EventAccumulator(str(output / "tensorboard"))
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def steps_of(points: list[tuple[int, float]]) -> list[int]:
    return [step for step, _ in points]


def weights(output: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoints/{step:06}/pretrained_model/model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(dataset_root, tmp_path_factory):
    """Four steps in more than one epoch, with a held-out loss, all augmentations and the flow head's noise."""
    output = tmp_path_factory.mktemp("surfaces") / "uninterrupted"
    train(
        dataset_root,
        output,
        "--save_freq=2",
        "--dataset.eval_split=0.5",
        "--eval_steps=2",
        "--policy.head=flow",
        "--policy.random_crop=0.2",
        "--policy.color_jitter=0.2",
        steps=4,
    )
    return output


@pytest.fixture(scope="module")
def resumed(uninterrupted):
    """The same run, as if it had been killed after its fourth step and before that step's checkpoint."""
    output = uninterrupted.with_name("resumed")
    shutil.copytree(uninterrupted, output, symlinks=True)
    shutil.rmtree(output / "checkpoints/000004")
    (output / "checkpoints/last").unlink()
    (output / "checkpoints/last").symlink_to("000002")
    config = output / "checkpoints/last/pretrained_model/train_config.json"
    succeed("lerobot-train", f"--config_path={config}", "--resume=true", f"--output_dir={output}")
    return output


def test_a_resumed_run_ends_exactly_where_the_uninterrupted_one_does(uninterrupted, resumed):
    before, expected, got = weights(uninterrupted, 2), weights(uninterrupted, 4), weights(resumed, 4)
    assert any(not torch.equal(before[name], expected[name]) for name in before)
    assert_same(got, expected)
    state = "checkpoints/000004/training_state"
    optimizer = "optimizer_state.safetensors"
    assert_same(load_file(resumed / state / optimizer), load_file(uninterrupted / state / optimizer))
    for file in ("optimizer_param_groups.json", "scheduler_state.json", "training_step.json"):
        assert json.loads((resumed / state / file).read_text()) == json.loads(
            (uninterrupted / state / file).read_text()
        )


def test_curves_lie_in_the_run_folder(uninterrupted):
    found = curves(uninterrupted)
    for name in ("train/loss", "train/lr", "train/flow_loss", "train/grad_norm"):
        assert steps_of(found[name]) == [1, 2, 3, 4], name
        assert all(math.isfinite(value) for _, value in found[name]), name
    assert found["train/loss"] == found["train/flow_loss"]
    assert steps_of(found["eval/loss"]) == [2, 4]
    assert not {"train/steps", "train/samples", "train/episodes", "train/epochs"} & found.keys()


def test_curves_go_on_after_a_resume(uninterrupted, resumed):
    found, expected = curves(resumed), curves(uninterrupted)
    assert len(list((resumed / "tensorboard").iterdir())) == 2
    for name in ("train/loss", "train/lr", "train/flow_loss", "train/grad_norm", "eval/loss"):
        assert found[name] == expected[name], name


def test_data_options_work_together(dataset_root, tmp_path):
    output = tmp_path / "run"
    train(
        dataset_root,
        output,
        "--sample_weighting.type=uniform",
        "--dataset.image_transforms.enable=true",
        "--policy.random_crop=0.1",
        "--policy.color_jitter=0.2",
        "--policy.dtype=bfloat16",
        "--policy.head=flow",
    )
    found = curves(output)
    assert steps_of(found["train/flow_loss"]) == [1, 2]
    assert all(math.isfinite(value) for name in ("train/loss", "train/flow_loss") for _, value in found[name])
    saved = output / "checkpoints/last/pretrained_model"
    policy = AtlasVLAPolicy.from_pretrained(saved)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in policy.parameters())
    preprocessor, postprocessor = make_pre_post_processors(policy.config, pretrained_path=str(saved))
    action = postprocessor(policy.select_action(preprocessor(raw_batch(2))))
    assert action.shape == (2, ACTION_DIM)
    assert action.dtype == torch.float32
    assert action.isfinite().all()


@pytest.mark.slow
def test_two_processes_train_one_policy(dataset_root, tmp_path):
    output = tmp_path / "run"
    # What `accelerate launch` runs for several GPUs; for several processes on a CPU it would want MPI.
    log = succeed(
        "torchrun",
        "--standalone",
        "--nproc_per_node=2",
        str(Path(sys.executable).with_name("lerobot-train")),
        *TINY,
        f"--dataset.root={dataset_root}",
        f"--output_dir={output}",
        "--policy.random_shift=0",
        "--steps=2",
        "--save_freq=2",
    )
    assert "Effective batch size: 4 x 2 = 8" in log
    assert log.count("Checkpoint policy after step 2") == 1
    state = json.loads((output / "checkpoints/last/training_state/training_step.json").read_text())
    assert (state["step"], state["num_processes"]) == (2, 2)
    assert len(list((output / "tensorboard").iterdir())) == 1
    policy = AtlasVLAPolicy.from_pretrained(output / "checkpoints/last/pretrained_model")
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())

    # One process with the whole batch sees the same samples in each step.
    train(dataset_root, tmp_path / "one", "--batch_size=8", "--policy.random_shift=0")
    for name in ("train/loss", "train/grad_norm"):
        assert dict(curves(output)[name]) == pytest.approx(dict(curves(tmp_path / "one")[name]), rel=1e-3), name


@pytest.mark.slow
def test_a_rollout_in_the_middle_of_training(dataset_root, tmp_path):
    output = tmp_path / "run"
    log = succeed(
        "lerobot-train",
        *TINY,
        *LIBERO,
        f"--dataset.root={dataset_root}",
        f"--output_dir={output}",
        "--steps=3",
        "--env_eval_freq=2",
    )
    assert "Eval policy at step 2" in log
    assert list((output / "eval/videos_step_000002").rglob("*.mp4"))
    found = curves(output)
    # Training goes on behind the rollout, which ran in inference mode.
    assert steps_of(found["train/loss"]) == [1, 2, 3]
    assert steps_of(found["rollout/overall_success_percent"]) == [2]


@pytest.mark.slow
def test_wandb_offline_beside_the_curves(dataset_root, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    output = tmp_path / "run"
    train(dataset_root, output, "--wandb.enable=true", "--wandb.project=x", "--wandb.mode=offline")
    (run,) = (output / "wandb").glob("offline-run-*/run-*.wandb")
    assert run.stat().st_size > 0
    assert steps_of(curves(output)["train/loss"]) == [1, 2]
