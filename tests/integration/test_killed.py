"""Whatever writes is killed at random moments (SIGKILL) and started again: nothing is lost, nothing is left over.

``ATLASVLA_KILL_ROUNDS=30 pytest -m slow -s tests/integration/test_killed.py`` does more and prints how many.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.common.train_utils import load_training_state, save_checkpoint, update_last_checkpoint
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.factory import make_pre_post_processors
from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock

from eval.rollout.run import main as eval_run
from eval.rollout.run_folder import ROLLOUTS_FILE, RUN_FILE, read_run
from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.files.replacing import SCRATCH
from lerobot_atlasvla.libero.demonstrations.collect import collect
from lerobot_atlasvla.libero.demonstrations.convert import convert
from lerobot_atlasvla.libero.demonstrations.dataset_writer import STAGING
from lerobot_atlasvla.model.types import GeometryTokens
from lerobot_atlasvla.training.feature_cache.files import CacheWriter, done_before, pixel_bytes
from lerobot_atlasvla.training.feature_cache.key import CacheKey
from tests.conftest import dataset_stats, tiny_config
from tests.eval.rollout.simulated_run import (
    BASE,
    TASKS,
    simulated,  # noqa: F401 (a fixture)
)
from tests.eval.rollout.simulated_run import checkpoint as checkpoint_to_roll_out  # noqa: F401 (a fixture)
from tests.helpers.forked import Forked
from tests.helpers.random_dataset import REPO_ID
from tests.libero.demonstrations import fake_simulator, hdf5_files
from tests.libero.demonstrations.conftest import fake_simulator as simulator  # noqa: F401 (a fixture)

ROUNDS = int(os.environ.get("ATLASVLA_KILL_ROUNDS", "2"))
KILLS = 3
STEPS = 3

pytestmark = pytest.mark.slow


def leftovers(folder: Path) -> list[Path]:
    names = (SCRATCH, ".tmp", STAGING)
    return [path for path in folder.rglob("*") if path.name.startswith(names) or "partial" in path.name]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def survive(name: str, folders: Path, work: Callable[[Path], object], progress: Callable[[Path], int]) -> list[Path]:
    """Kill ``work`` at random moments, several times in each folder, then let it end; return the folders.

    Args:
        name: Of the work, which seeds the moments.
        folders: Where the folders are made.
        work: Fills a folder, or goes on filling it.
        progress: Reads a folder as its users do, and says how much is in it.
    """

    def in_child(folder: Path, tell) -> None:
        work(folder)

    moments, killed = random.Random(name), 0
    started = time.monotonic()
    with Forked(in_child, folders / "undisturbed") as process:
        assert process.wait() == 0
    duration, everything = time.monotonic() - started, progress(folders / "undisturbed")
    assert everything > 0
    for number in range(ROUNDS):
        folder, done = folders / str(number), 0
        for _ in range(KILLS):
            with Forked(in_child, folder) as process:
                time.sleep(moments.uniform(0, duration / 2))
                status = process.kill()
            assert status in (0, -9)
            killed += status == -9
            before, done = done, progress(folder)
            assert done >= before, "something was lost"
        with Forked(in_child, folder) as process:
            assert process.wait() == 0
        assert progress(folder) == everything
        assert leftovers(folder) == []
    sys.stdout.write(f"{name}: {ROUNDS} rounds, {killed} of {ROUNDS * KILLS} starts killed while they ran\n")
    return [folders / "undisturbed", *(folders / str(number) for number in range(ROUNDS))]


class OwnBar(tqdm):
    """As datasets' and LeRobot's: whichever class is asked for its lock first makes one."""


@pytest.mark.parametrize("bar", [tqdm, OwnBar])
def test_a_process_killed_while_it_draws_a_bar_leaves_the_others_theirs(bar, monkeypatch):
    monkeypatch.setattr(bar, "_lock", TqdmDefaultWriteLock(), raising=False)

    def draw(tell: Callable[[object], object]) -> None:
        bar.get_lock().acquire()
        tell("drawing")
        time.sleep(600)

    locks = bar.get_lock().locks  # before the fork, as by anything that has drawn a bar
    with Forked(draw) as process:
        assert process.told() == "drawing"
    for lock in locks:
        assert lock.acquire(timeout=1)
        lock.release()


@pytest.mark.usefixtures("simulator")
def test_collecting(tmp_path):
    def episodes(root: Path) -> int:
        found = fake_simulator.contents(root) if (root / "meta/info.json").exists() else []
        assert found == fake_simulator.EXPECTED[: len(found)]
        return len(found)

    survive("collect", tmp_path, lambda root: collect(fake_simulator.config(root)), episodes)


def test_converting(tmp_path):
    source = hdf5_files.four_demos(tmp_path / "hdf5")

    def episodes(root: Path) -> int:
        found = hdf5_files.first_actions(root) if (root / "meta/info.json").exists() else []
        assert found == hdf5_files.expected_first_actions(*range(len(found)))
        return len(found)

    config = hdf5_files.config
    survive("convert", tmp_path / "out", lambda root: convert(config(root, source)), episodes)


def test_building_a_feature_cache(tmp_path):
    config, frames = tiny_config(), 40
    key = CacheKey.of(config, dataset=REPO_ID, frames=frames, weights="digest")

    def fill(folder: Path) -> None:
        for frame in (done_before(folder, key) == 0).nonzero()[0]:
            with CacheWriter(folder, key) as writer:
                tokens = GeometryTokens(tuple(torch.full((1, *key.layer), float(frame)) for _ in key.output_layers), ())
                pixels = torch.full((1, pixel_bytes(key)), int(frame), dtype=torch.uint8)
                writer.write(np.array([frame]), [tokens] * key.copies, pixels)

    def rows(folder: Path) -> int:
        return sum((folder / "done.bin").read_bytes()) if (folder / "cache.json").exists() else 0

    first, *others = survive("cache", tmp_path, fill, rows)
    for folder in others:
        assert contents(folder) == contents(first)


def test_saving_over_an_earlier_checkpoint(tmp_path):
    torch.manual_seed(0)
    policies = [AtlasVLAPolicy(tiny_config()) for _ in range(2)]
    weights = [policy.model.head.state_dict() for policy in policies]

    def save(folder: Path) -> None:
        for policy in policies * 3:
            policy.save_pretrained(folder)

    def is_one_of_them(folder: Path) -> int:
        if not (folder / "model.safetensors").exists():
            return 0
        found = AtlasVLAPolicy.from_pretrained(folder).model.head.state_dict()
        assert any(all(torch.equal(found[name], own[name]) for name in own) for own in weights)
        return 1

    first, *others = survive("save", tmp_path, save, is_one_of_them)
    for folder in others:
        assert contents(folder) == contents(first)


@pytest.mark.usefixtures("simulated", "checkpoint_to_roll_out")
def test_rolling_out(tmp_path):
    def roll_out(folder: Path) -> None:
        assert eval_run([*BASE, f"--output_dir={folder}"]) == 0

    def rollouts(folder: Path) -> int:
        found = [rollout.key for rollout in read_run(folder).rollouts] if (folder / RUN_FILE).exists() else []
        assert len(set(found)) == len(found)
        return len(found)

    folders = survive("eval.run", tmp_path / "runs", roll_out, rollouts)
    assert len(read_run(folders[0]).rollouts) == 4 * TASKS
    assert all(sorted(path.name for path in folder.iterdir()) == [ROLLOUTS_FILE, RUN_FILE] for folder in folders)


def test_the_checkpoints_of_a_training_run(tmp_path, dataset_root):
    """LeRobot's own saving and resuming, around our policy: each step changes the weights, each is saved."""
    cfg = TrainPipelineConfig(DatasetConfig(REPO_ID, root=str(dataset_root)), policy=tiny_config())

    def last(folder: Path) -> Path:
        return folder / "checkpoints/last"

    def train(folder: Path) -> None:
        torch.manual_seed(0)
        policy, step = AtlasVLAPolicy(tiny_config()), 0
        pipelines = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
        if last(folder).exists():
            policy = AtlasVLAPolicy.from_pretrained(last(folder) / "pretrained_model")
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
        if last(folder).exists():
            step = load_training_state(last(folder), optimizer, None)[0]
        for number in range(step + 1, STEPS + 1):
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.full_like(parameter, number)
            optimizer.step()
            target = folder / f"checkpoints/{number:06d}"
            save_checkpoint(target, number, cfg, policy, optimizer, None, *pipelines)
            update_last_checkpoint(target)

    def steps(folder: Path) -> int:
        if not last(folder).exists():
            return 0
        policy = AtlasVLAPolicy.from_pretrained(last(folder) / "pretrained_model")
        make_pre_post_processors(policy.config, str(last(folder) / "pretrained_model"))
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
        return load_training_state(last(folder), optimizer, None)[0]

    first, *others = survive("training", tmp_path, train, steps)
    for folder in others:
        for name, content in contents(first).items():
            if "rng_state" not in name and "train_config" not in name:
                assert (folder / name).read_bytes() == content, name
