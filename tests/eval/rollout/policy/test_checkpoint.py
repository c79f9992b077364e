"""What eval.run learns of a checkpoint without loading it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import open_policy, read_checkpoint
from eval.rollout.policy.training_record import training_record
from eval.rollout.settings import RunConfig
from tests.conftest import CHUNK, tiny_config

FEATURES = {
    "input_features": {
        "observation.images.image": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
        "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
    "push_to_hub": False,
    "device": "cpu",
}


def save(folder: Path, config) -> Path:
    folder.mkdir(parents=True)
    config._save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def trained(tmp_path) -> Path:
    """As lerobot-train leaves it."""
    run = tmp_path / "train"
    folder = save(run / "checkpoints/000600/pretrained_model", tiny_config(n_action_steps=4))
    (run / "checkpoints/last").symlink_to("000600")
    data = tmp_path / "data"
    (data / "meta").mkdir(parents=True)
    (data / "meta/episodes/chunk-000").mkdir(parents=True)
    # Forty episodes of 100 frames and two tasks, not in order.
    rows = [{"episode_index": index, "tasks": [f"task {index % 2}"], "length": 100} for index in reversed(range(40))]
    parquet.write_table(pa.Table.from_pylist(rows), data / "meta/episodes/chunk-000/file-000.parquet")
    (data / "meta/atlasvla_collect.json").write_text(json.dumps({"assets": "stand-in"}))
    (folder.parent / "training_state").mkdir()
    (folder.parent / "training_state/training_step.json").write_text('{"step": 600}')
    config = {
        "steps": 1000,
        "batch_size": 8,
        "seed": 3,
        "log_freq": 200,
        "dataset": {"repo_id": "local/data", "root": str(data), "episodes": None},
        "policy": {"type": "atlasvla"},
    }
    (folder / "train_config.json").write_text(json.dumps(config))
    return run


@pytest.mark.parametrize("inside", ["", "checkpoints/last", "checkpoints/000600", "checkpoints/last/pretrained_model"])
def test_a_checkpoint_is_found_from_its_folders(trained, inside):
    checkpoint = read_checkpoint(trained / inside, "cpu", None)
    assert checkpoint.folder == trained / "checkpoints/000600/pretrained_model"
    assert checkpoint.config.type == "atlasvla"
    assert checkpoint.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (checkpoint.n_action_steps, checkpoint.chunk_size, checkpoint.images_every) == (4, CHUNK, 4)


def test_another_number_of_action_steps(trained):
    checkpoint = read_checkpoint(trained, "cpu", 7)
    assert (checkpoint.n_action_steps, checkpoint.images_every) == (7, 7)
    with pytest.raises(EvalError, match=rf"--n_action_steps=11 must lie in 1 \.\. {CHUNK}"):
        read_checkpoint(trained, "cpu", 11)


def test_lerobots_own_policies_are_known_without_further_ado(tmp_path):
    folder = save(tmp_path / "act", ACTConfig(**FEATURES))
    code = (
        "from pathlib import Path; from eval.rollout.policy.checkpoint import read_checkpoint; "
        f"print(read_checkpoint(Path({str(folder)!r}), 'cpu', None).config.type)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert done.stdout == "act\n", done.stderr


def test_policies_that_look_back_get_an_image_of_every_step(tmp_path):
    diffusion = read_checkpoint(save(tmp_path / "diffusion", DiffusionConfig(**FEATURES)), "cpu", None)
    assert diffusion.config.n_obs_steps == 2
    assert diffusion.images_every is None
    assert diffusion.chunk_size == diffusion.config.horizon - 1  # the first action is in the past
    latest_only = save(tmp_path / "latest_only", DiffusionConfig(**FEATURES, n_obs_steps=1, n_action_steps=6))
    assert read_checkpoint(latest_only, "cpu", None).images_every == 6
    tdmpc = save(tmp_path / "tdmpc", TDMPCConfig(**FEATURES))
    assert read_checkpoint(tdmpc, "cpu", None).images_every is None


def test_a_temporal_ensemble_looks_at_every_step(tmp_path):
    folder = save(tmp_path / "act", ACTConfig(**FEATURES, temporal_ensemble_coeff=0.01, n_action_steps=1))
    assert read_checkpoint(folder, "cpu", None).images_every == 1
    # ACT's own check, through the flag.
    with pytest.raises(EvalError, match="n_action_steps"):
        read_checkpoint(folder, "cpu", 5)


def test_a_temporal_ensemble_of_ours_is_set_by_the_flag(trained, tmp_path):
    asked = {"n_action_steps": 1, "temporal_ensemble_coeff": 0.01}
    checkpoint = read_checkpoint(trained, "cpu", **asked)
    assert (checkpoint.config.temporal_ensemble_coeff, checkpoint.images_every) == (0.01, 1)
    # The policy's own check, and a policy that has no such setting.
    with pytest.raises(EvalError, match=r"n_action_steps must be 1, got 4 \(--policy\.n_action_steps=1"):
        read_checkpoint(trained, "cpu", temporal_ensemble_coeff=0.01)
    with pytest.raises(EvalError, match=r"--temporal_ensemble_coeff=0\.01 cannot be set: a policy of type diffusion"):
        read_checkpoint(save(tmp_path / "diffusion", DiffusionConfig(**FEATURES)), "cpu", temporal_ensemble_coeff=0.01)


def test_action_steps_of_a_policy_without_them_are_refused(tmp_path, monkeypatch):
    folder = save(tmp_path / "act", ACTConfig(**FEATURES))
    real = ACTConfig.__getattribute__

    def without(self, name):
        if name == "n_action_steps":
            raise AttributeError(name)
        return real(self, name)

    monkeypatch.setattr(ACTConfig, "__post_init__", lambda self: None)
    monkeypatch.setattr(ACTConfig, "__getattribute__", without)
    assert read_checkpoint(folder, "cpu", None).images_every is None
    with pytest.raises(EvalError, match=r"--n_action_steps=5 cannot be set: a policy of type act has no such number"):
        read_checkpoint(folder, "cpu", 5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is not a LeRobot checkpoint"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no weights: .* lacks model\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), r"config\.json cannot be used: Missing 'type'"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be used"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json cannot be used"),
        (lambda folder: (folder / "config.json").write_text("7"), r"config\.json cannot be used"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), r"config\.json cannot be used"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), r"config\.json cannot be used"),
        (lambda folder: (folder / "config.json").write_text('{"type": "unheard"}'), "'unheard'"),
        (lambda folder: (folder / "config.json").write_text('{"type": "act", "x": 1}'), r"config\.json cannot be used"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, damage, message):
    folder = save(tmp_path / "checkpoint", tiny_config())
    damage(folder)
    with pytest.raises(EvalError, match=message) as refused:
        read_checkpoint(folder, "cpu", None)
    assert f"--checkpoint={folder}" in str(refused.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(EvalError, match=r"--checkpoint=.*nowhere is not a folder"):
        read_checkpoint(tmp_path / "nowhere", "cpu", None)


def test_the_assets_of_the_demonstrations_are_found(trained, tmp_path):
    assert read_checkpoint(trained, "cpu", None).training_assets() == "stand-in"
    (tmp_path / "data/meta/atlasvla_collect.json").unlink()
    assert read_checkpoint(trained, "cpu", None).training_assets() is None


def test_the_training_is_described(trained):
    folder = trained / "checkpoints/000600/pretrained_model"
    (trained / "train.log").write_text("step:200 x loss:0.9 y\nstep:400 x loss:0.5 y\nstep:1K x loss:0.1 y\n" * 2)
    (trained / "train_command.txt").write_text("lerobot-train --steps=1000\n")
    assert training_record(folder) == {
        "steps": 600,
        "batch_size": 8,
        "seed": 3,
        "dataset": {"repo_id": "local/data"},
        "episodes": 40,
        "frames": 4000,
        "policy": {"type": "atlasvla"},
        "command": "lerobot-train --steps=1000",
        "minutes": None,
        # The entries after step 600 are of what the training did afterward.
        "loss_curve": [[200, 0.9], [400, 0.5], [600, 0.1]],
    }


def test_tensorboard_files_come_first(trained):
    from torch.utils.tensorboard import SummaryWriter

    (trained / "train.log").write_text("step:200 x loss:0.9 y\n")
    writer = SummaryWriter(str(trained / "tensorboard"))
    for step in (100, 600, 700):
        writer.add_scalar("train/loss", step / 1000, step, walltime=1e9 + step)
    writer.close()
    record = training_record(trained / "checkpoints/000600/pretrained_model")
    assert record is not None
    assert record["loss_curve"] == [[100, pytest.approx(0.1)], [600, pytest.approx(0.6)]]
    assert record["minutes"] == pytest.approx(500 / 60, abs=0.05)


def test_part_of_a_dataset_and_no_dataset(trained, tmp_path):
    folder = trained / "checkpoints/000600/pretrained_model"
    file = folder / "train_config.json"
    config = json.loads(file.read_text())
    config["dataset"]["episodes"] = [0, 1, 2]
    file.write_text(json.dumps(config))
    record = training_record(folder)
    assert record is not None
    assert (record["episodes"], record["frames"], record["command"], record["loss_curve"]) == (3, 300, None, [])
    assert record["minutes"] is None
    shutil.rmtree(tmp_path / "data")
    record = training_record(folder)
    assert record is not None
    assert (record["episodes"], record["frames"]) == (3, None)
    file.unlink()
    assert training_record(folder) is None


def test_a_damaged_dataset_is_named(trained, tmp_path):
    (tmp_path / "data/meta/episodes/chunk-000/file-000.parquet").write_bytes(b"x" * 100)
    with pytest.raises(EvalError, match=r"data/meta/episodes, of the dataset .* can't be read: ArrowInvalid"):
        training_record(trained / "checkpoints/000600/pretrained_model")


@pytest.mark.parametrize(("chosen", "trained_on"), [(None, 36), ([0, 1, 2, 4], 2), ([0, 41], None)])
def test_episodes_that_were_held_out_are_not_counted(trained, chosen, trained_on):
    folder = trained / "checkpoints/000600/pretrained_model"
    config = json.loads((folder / "train_config.json").read_text())
    # Of each task, the last 2 of 20; of those chosen, the last of 3 and the only one.
    config["dataset"] |= {"eval_split": 0.1, "episodes": chosen}
    (folder / "train_config.json").write_text(json.dumps(config))
    record = training_record(folder)
    assert record is not None
    frames = None if trained_on is None else 100 * trained_on
    assert (record["episodes"], record["frames"]) == (trained_on, frames)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not what LeRobot writes: TypeError: a list instead of an object"),
        ('{"dataset": 7}', "is not what LeRobot writes: its dataset is 7"),
        ('{"dataset": {}}', "is not what LeRobot writes: it does not say 'steps'"),
        ('{"dataset": {}, "steps": 9, "log_freq": 1}', "it does not say 'batch_size'"),
    ],
)
def test_a_foreign_record_of_training_is_named(trained, content, message):
    folder = trained / "checkpoints/000600/pretrained_model"
    (folder / "train_config.json").write_text(content)
    with pytest.raises(EvalError, match=message):
        training_record(folder)


def test_an_overlay_needs_a_decoder_that_looks_at_images(tmp_path):
    folder = save(tmp_path / "saved", tiny_config(query_conditioning="only_landmarks"))
    cfg = RunConfig(checkpoint=folder, output_dir=tmp_path / "out", overlay=True, device="cpu")
    with pytest.raises(EvalError, match=r"--overlay=true.*query_conditioning=only_landmarks"):
        open_policy(cfg)
