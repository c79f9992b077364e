"""Equal weights are saved as equal bytes, in files that others may read, whatever else was killed or running."""

import os
import time
from pathlib import Path

import pytest
import torch
from lerobot.optim.optimizers import save_optimizer_state
from lerobot.policies.factory import make_pre_post_processors

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.files import safetensors_files
from lerobot_atlasvla.files.replacing import SCRATCH
from lerobot_atlasvla.files.safetensors_files import save_tensors
from tests.conftest import dataset_stats, raw_batch, tiny_config
from tests.helpers.forked import Forked


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def backward(values: dict) -> dict:
    return dict(reversed(values.items()))


def save(folder: Path, *, turned: bool = False, used: bool = False) -> Path:
    """Save the same policy, its dictionaries turned around or not, its pipeline used before or not."""
    torch.manual_seed(0)
    config, stats = tiny_config(), dataset_stats()
    if turned:
        cameras = {key: feature for key, feature in config.input_features.items() if "images" in key}
        config = tiny_config(
            normalization_mapping=backward(config.normalization_mapping),
            input_features={key: f for key, f in config.input_features.items() if key not in cameras} | cameras,
        )
        stats = {key: backward(values) for key, values in backward(stats).items()}
    policy = AtlasVLAPolicy(config)
    pipelines = make_atlasvla_pre_post_processors(config, stats)
    if used:
        pipelines[0](raw_batch())
    state = policy.state_dict()
    policy.save_pretrained(folder, state_dict=backward(state) if turned else state)
    for pipeline in pipelines:
        pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "policy")


@pytest.mark.parametrize("how", [{}, {"turned": True}, {"used": True}])
def test_the_same_policy_gives_the_same_bytes(saved, tmp_path, how):
    assert contents(save(tmp_path / "again", **how)) == contents(saved)


def test_what_is_loaded_and_saved_again_has_the_same_bytes(saved, tmp_path):
    policy = AtlasVLAPolicy.from_pretrained(saved)
    policy.save_pretrained(tmp_path)
    for pipeline in make_pre_post_processors(policy.config, str(saved)):
        pipeline.save_pretrained(tmp_path)
    assert contents(tmp_path) == contents(saved)


def test_the_order_of_metadata_and_tensors_does_not_show(tmp_path):
    """In the library's hash table it is another one at every call."""
    tensors = {"b": torch.ones(3), "ä": torch.zeros(2)}
    metadata = {"format": "pt", 'quote"': "line\nfeed \x01 é", "c": "", "a": "x"}
    for number in range(20):
        save_tensors(tensors, tmp_path / str(number), metadata)
        tensors, metadata = backward(tensors), backward(metadata)
    assert len(set(contents(tmp_path).values())) == 1
    with safetensors_files.safetensors.safe_open(tmp_path / "0", framework="pt") as handle:
        assert handle.metadata() == metadata
        assert handle.get_tensor("b").tolist() == [1, 1, 1]


def test_every_file_of_a_checkpoint_may_be_read_by_others(tmp_path, policy):
    before = os.umask(0o022)
    try:
        save(tmp_path / "policy")
        optimizer = torch.optim.AdamW(policy.parameters())
        save_optimizer_state(optimizer, tmp_path)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o644" for path in files}


def test_what_a_killed_save_left_is_gone_after_the_next(saved, tmp_path, monkeypatch):
    def write_half(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        (Path(filename).parent / ".tmp123456").touch()  # as safetensors writes
        tell("writing")
        time.sleep(600)

    def killed(folder, tell_parent):
        nonlocal tell
        tell = tell_parent
        monkeypatch.setattr(safetensors_files, "_serialize_file", write_half)
        save(folder)

    tell = print
    folder = save(tmp_path / "policy")
    with Forked(killed, folder) as process:
        assert process.told() == "writing"
    assert len([path for path in folder.iterdir() if path.name.startswith(SCRATCH)]) == 1
    assert AtlasVLAPolicy.from_pretrained(folder)
    save(folder)
    assert contents(folder) == contents(saved)
