"""`atlasvla-cache`, then `lerobot-train` on what it wrote: the same losses and weights as without."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.commands import run_command, succeed
from tests.integration.test_peft import pretrained_flags
from tests.integration.test_train_and_eval import TINY
from tests.integration.test_training_surfaces import curves

STEPS = 4


@pytest.fixture(scope="module")
def flags(root, dataset_root):
    return [
        *TINY,
        *pretrained_flags(root),
        "--policy.random_shift=0",
        "--policy.scheduler_warmup_steps=0",
        "--policy.optimizer_lr=0.01",
        f"--dataset.root={dataset_root}",
        "--dataset.eval_split=0.5",
        "--eval_steps=2",
        f"--steps={STEPS}",
        "--save_freq=2",
    ]


@pytest.fixture(scope="module")
def cached(flags, tmp_path_factory):
    """A cache and a run on it: the folder, the run's output, both logs."""
    root = tmp_path_factory.mktemp("cached")
    flag = f"--policy.feature_cache={root / 'features'}"
    build_log = succeed("atlasvla-cache", *flags, flag)
    train_log = succeed("lerobot-train", *flags, flag, f"--output_dir={root / 'run'}")
    return root / "features", root / "run", build_log, train_log


@pytest.fixture(scope="module")
def plain(flags, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "run"
    succeed("lerobot-train", *flags, f"--output_dir={output}")
    return output


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoints/last/pretrained_model/model.safetensors")


def test_the_loss_curve_and_the_weights_are_the_same(cached, plain):
    _, output, _, _ = cached
    mine, other = curves(output), curves(plain)
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        assert [step for step, _ in mine[name]] == [step for step, _ in other[name]]
        assert [value for _, value in mine[name]] == pytest.approx([value for _, value in other[name]], rel=1e-4)
    assert len(mine["train/loss"]) == STEPS
    saved = json.loads((output / "checkpoints/last/pretrained_model/config.json").read_text())
    assert saved["feature_cache"] is None
    assert saved["actions_in_memory"] is False
    assert len({value for _, value in mine["train/loss"]}) == STEPS
    for name, tensor in weights(output).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-3, atol=1e-4)


def test_both_commands_say_what_they_do(cached):
    folder, _, build_log, train_log = cached
    # Two layers of two views, each a camera token and 4 x 4 patches, 64 wide; float32.
    size = 2 * 2 * 17 * 64 * 4
    assert f"24 frames x 1 copies x {size / 1e6:.2f} MB" in build_log
    assert f"lerobot-train --policy.feature_cache={folder}" in build_log
    assert "24 of 24 frames" in train_log
    assert json.loads((folder / "cache.json").read_text())["frames"] == 24


def test_a_resumed_run_goes_on_with_the_cache_or_without_it(cached, tmp_path):
    _, output, _, _ = cached
    expected = weights(output)
    for name, flags in {"with": [], "without": ["--policy.feature_cache=null"]}.items():
        copied = shutil.copytree(output, tmp_path / name, symlinks=True)
        config = copied / "checkpoints/000002/pretrained_model/train_config.json"
        log = succeed("lerobot-train", f"--config_path={config}", "--resume=true", f"--output_dir={copied}", *flags)
        assert ("24 of 24 frames" in log) == (name == "with")
        assert (copied / "checkpoints/last").resolve().name == f"{STEPS:06}"
        for key, tensor in weights(copied).items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-4)


def test_training_refuses_a_cache_that_is_not_there(flags, tmp_path):
    done = run_command(
        "lerobot-train", *flags, f"--policy.feature_cache={tmp_path / 'none'}", f"--output_dir={tmp_path / 'run'}"
    )
    assert done.returncode != 0
    assert f"{tmp_path / 'none'} holds no feature cache" in done.stderr
    assert "atlasvla-cache" in done.stderr


def test_the_command_explains_what_it_cannot_do(flags):
    done = run_command("atlasvla-cache", *flags)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "atlasvla-cache: Name the folder of the cache: --policy.feature_cache=FOLDER."
    )
