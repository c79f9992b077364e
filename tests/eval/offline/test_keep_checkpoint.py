"""A checkpoint kept in half precision is the same policy up to rounding, with digests that hold and a card."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file, save_file

from eval.offline.keep_checkpoint import main
from eval.rollout.policy.training_record import COMMAND_FILE, training_command
from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from tests.conftest import IMAGE, WRIST, dataset_stats, raw_batch, tiny_config
from tests.helpers.forked import Forked
from tests.helpers.released import save

CHECKPOINTS = Path(__file__).parents[3] / "checkpoints"


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    return save(AtlasVLAPolicy(tiny_config()), tmp_path / "trained/pretrained_model")


def test_the_copy_is_half_as_large_and_acts_the_same_up_to_rounding(checkpoint, tmp_path, capsys):
    note = tmp_path / "note.md"
    note.write_text("Trained with a recipe.")
    copy = tmp_path / "kept"
    assert main([f"--checkpoint={checkpoint.parent}", f"--output_dir={copy}", f"--note={note}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"kept: {copy}")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (checkpoint, copy)]
    assert sizes[1] < 0.7 * sizes[0]
    one, other = AtlasVLAPolicy.from_pretrained(checkpoint), AtlasVLAPolicy.from_pretrained(copy)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    preprocess, _ = make_atlasvla_pre_post_processors(one.config, dataset_stats())
    batch = preprocess(raw_batch())
    difference = (one.predict_action_chunk(batch) - other.predict_action_chunk(batch)).abs().max()
    assert 0 < difference < 1e-2
    for line in (copy / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest
    text = (copy / "README.md").read_text()
    assert text.endswith("## Notes\n\nTrained with a recipe.\n")
    assert "AtlasVLA" in text


def test_the_copy_and_its_copy_say_how_they_were_trained(checkpoint, tmp_path):
    run = tmp_path / "run"
    saved = run / "checkpoints/000001/pretrained_model"
    saved.parent.mkdir(parents=True)
    checkpoint.rename(saved)
    (run / COMMAND_FILE).write_text("lerobot-train --steps=1\n")
    copies = [tmp_path / "copies/kept", tmp_path / "copies/kept_again"]
    for source, copy in zip([saved, copies[0]], copies, strict=True):
        assert main([f"--checkpoint={source}", f"--output_dir={copy}"]) == 0
        assert training_command(copy) == "lerobot-train --steps=1"
        assert COMMAND_FILE in (copy / "SHA256SUMS").read_text()


def test_what_can_not_be_kept_leaves_nothing_behind(checkpoint, tmp_path, capsys):
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.float32)
    tensors[name].flatten()[0] = 1e6
    save_file(tensors, file, metadata={"format": "pt"})
    copy = tmp_path / "kept"
    assert main([f"--checkpoint={checkpoint}", f"--output_dir={copy}"]) == 1
    assert f"{name} holds values that float16 can't" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trained"]
    copy.mkdir()
    assert main([f"--checkpoint={checkpoint}", f"--output_dir={copy}"]) == 1
    assert f"--output_dir={copy} exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "model.safetensors", 200), "model.safetensors is damaged or incomplete"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"type": "act"}'), "is a policy of type act; only"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not what LeRobot writes"),
        (lambda folder: (folder / "train_config.json").write_text("[]"), "train_config.json can't be used"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_leaves_nothing_behind(checkpoint, tmp_path, capsys, damage, message):
    damage(checkpoint)
    assert main([f"--checkpoint={checkpoint}", f"--output_dir={tmp_path / 'kept'}"]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trained"]


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def test_two_at_once_give_one_whole_copy(checkpoint, tmp_path, capfd):
    """The second, which found no folder when it began, does not touch the first one's."""
    arguments = [f"--checkpoint={checkpoint}", f"--output_dir={tmp_path / 'kept'}"]

    def keep(tell) -> None:
        sys.exit(main(arguments))

    with Forked(keep) as one, Forked(keep) as other:
        assert sorted((one.wait(), other.wait())) == [0, 1]
    assert f"--output_dir={tmp_path / 'kept'} exists" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "trained"]
    for line in (tmp_path / "kept/SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "kept" / name).read_bytes()).hexdigest() == digest


def test_a_copy_of_a_quicker_process_stays_and_the_error_says_so(checkpoint, tmp_path, monkeypatch, capsys):
    target = tmp_path / "kept"

    def other_is_quicker(*_):
        target.mkdir()
        (target / "theirs").touch()
        return "card"

    monkeypatch.setattr("eval.offline.keep_checkpoint.card", other_is_quicker)
    assert main([f"--checkpoint={checkpoint}", f"--output_dir={target}"]) == 1
    assert f"--output_dir={target} exists" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["theirs"]


@pytest.mark.parametrize("name", sorted(file.parent.name for file in CHECKPOINTS.glob("*/policy_preprocessor.json")))
def test_the_policies_of_the_repository_are_whole_and_act(name):
    folder = CHECKPOINTS / name
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split("  ")
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    policy = AtlasVLAPolicy.from_pretrained(folder)
    preprocess, postprocess = make_pre_post_processors(policy.config, str(folder))
    batch = raw_batch()
    observation = {key: value for key, value in batch.items() if not key.startswith("action")}
    action_BA = postprocess(policy.select_action(preprocess(observation)))
    assert action_BA.shape == (3, 7)
    assert policy.config.is_blind == name.endswith("blind")
    other = observation | {IMAGE: 1 - observation[IMAGE], WRIST: 1 - observation[WRIST]}
    policy.reset()
    changed_BA = postprocess(policy.select_action(preprocess(other)))
    assert torch.equal(changed_BA, action_BA) == policy.config.is_blind
