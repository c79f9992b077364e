"""Writing a feature cache: whole or to be continued, and nothing of other people's files."""

import copy
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from lerobot.configs.default import DatasetConfig, PeftConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import UnidentifiedImageError
from torch._utils import ExceptionWrapper

from lerobot_atlasvla.commands import cache_features as build_module
from lerobot_atlasvla.commands.cache_features import build
from lerobot_atlasvla.policy.checks.config import ConfigError
from lerobot_atlasvla.training.feature_cache import files
from lerobot_atlasvla.training.feature_cache.key import FeatureCacheError
from tests.conftest import tiny_config
from tests.helpers.random_dataset import REPO_ID
from tests.training.feature_cache.helpers import TOTAL, settings


def test_a_build_goes_on_where_it_was_killed(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "resumed")
    calls = []
    add = build_module._add

    def killed_in_the_third_batch(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(*args)

    monkeypatch.setattr(build_module, "_add", killed_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        build(cfg)
    done = tmp_path / "resumed/done.bin"
    assert sum(done.read_bytes()) == 10
    monkeypatch.setattr(build_module, "_add", lambda *args: calls.append(args) or add(*args))
    build(cfg)
    assert sum(done.read_bytes()) == TOTAL
    assert len(calls) == 3 + 3  # 14 frames are left, five at a time
    build(cfg)
    assert len(calls) == 6
    whole = build(settings(data, released, tmp_path / "whole"))
    assert (tmp_path / "resumed/features.bin").read_bytes() == (whole / "features.bin").read_bytes()


def test_a_second_writer_is_refused(data, released, cache, tmp_path):
    """Two at once used to truncate each other's files."""
    folder = shutil.copytree(cache, tmp_path / "copy")
    (folder / "done.bin").write_bytes(bytes((folder / "done.bin").stat().st_size))
    with (
        files.CacheWriter(folder, files.read_key(folder)),
        pytest.raises(FeatureCacheError, match=f"Another process is writing to --policy.feature_cache={folder}"),
    ):
        build(settings(data, released, folder))
    assert build(settings(data, released, folder)) == folder
    assert (folder / "done.bin").read_bytes() == (cache / "done.bin").read_bytes()


def test_a_folder_with_something_else_in_it_is_left_alone(data, released, cache, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(FeatureCacheError, match=r"thesis\.txt"):
        build(settings(data, released, tmp_path / "mine"))
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    before = (cache / "features.bin").read_bytes()
    with pytest.raises(FeatureCacheError, match=r"something else.*image_size"):
        build(settings(data, released, cache, image_size=(24, 24)))
    assert (cache / "features.bin").read_bytes() == before


def test_too_small_a_disk_is_noticed_before_anything_is_computed(data, released, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(build_module, "_add", lambda *args: pytest.fail("computed"))
    with pytest.raises(FeatureCacheError, match=r"need 0\.\d+ GB.*--policy\.feature_cache_copies"):
        build(settings(data, released, tmp_path / "full"))
    # Nothing stands in the way of a smaller one.
    assert not (tmp_path / "full").exists()


def test_a_disk_that_fills_up_loses_nothing(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "full")
    written = []
    pwrite = files.os.pwrite

    def full_after_a_while(file, content, offset):
        written.append(len(content))
        if len(written) > 25:
            raise OSError(28, "No space left on device")
        return pwrite(file, content, offset)

    monkeypatch.setattr(files.os, "pwrite", full_after_a_while)
    with pytest.raises(FeatureCacheError, match=r"No space left.*run the same command again"):
        build(cfg)
    # Three writes a frame; the batch in which the disk ran full does not count.
    assert sum((tmp_path / "full/done.bin").read_bytes()) == 5
    monkeypatch.undo()
    build(cfg)
    whole = build(settings(data, released, tmp_path / "whole"))
    assert (tmp_path / "full/features.bin").read_bytes() == (whole / "features.bin").read_bytes()


def as_a_worker_tells(error: Exception) -> Exception:
    """The error that a DataLoader raises when a worker of its met this one: its message holds a traceback."""
    told = ExceptionWrapper((type(error), error, error.__traceback__), "in DataLoader worker process 0")
    with pytest.raises(type(error)) as raised:
        told.reraise()
    return raised.value


DAMAGES = {
    "cannot identify image file": UnidentifiedImageError,
    "cannot identify image file 7": lambda words: as_a_worker_tells(UnidentifiedImageError(words)),
    "Could not decode frame 7": RuntimeError,
    # In a folder whose name begins like the cache's.
    "No such file or directory: 'cache2/7.png'": lambda words: FileNotFoundError(2, words[:25], "cache2/7.png"),
}


@pytest.mark.parametrize(("words", "damage"), DAMAGES.items())
def test_a_dataset_that_can_not_be_read_is_not_taken_for_the_cache(
    data, released, tmp_path, monkeypatch, words, damage
):
    monkeypatch.chdir(tmp_path)
    cfg = settings(data, released, Path("cache"))
    error = damage(words)
    read = LeRobotDataset.__getitem__

    def damaged(dataset, index):
        if index == 7:
            raise error
        return read(dataset, index)

    monkeypatch.setattr(LeRobotDataset, "__getitem__", damaged)
    # Subset would ask for a whole batch otherwise.
    monkeypatch.delattr(LeRobotDataset, "__getitems__", raising=False)
    with pytest.raises(FeatureCacheError) as refused:
        build(cfg)
    said = str(refused.value)
    assert re.match(rf"--dataset\.repo_id={REPO_ID}, --dataset\.root={data}, can't be read: ", said)
    assert words in said
    assert "can't be written" not in said
    assert "Traceback" not in said
    assert "\n" not in said
    assert said.endswith("has by now count: run the same command again to go on.")
    assert sum((tmp_path / "cache/done.bin").read_bytes()) == 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, r"--batch_size=0 must be at least 1\."),
        ("num_workers", -1, r"--num_workers=-1 must be at least 0\."),
    ],
)
def test_wrong_numbers_are_refused_before_the_network_is_built(
    data, released, tmp_path, monkeypatch, name, value, message
):
    monkeypatch.setattr(build_module, "_make_policy", lambda *args: pytest.fail("built"))
    cfg = settings(data, released, tmp_path / "cache")
    setattr(cfg, name, value)
    with pytest.raises(FeatureCacheError, match=message):
        build(cfg)


def test_a_folder_that_can_not_be_looked_into_is_named(data, released, tmp_path):
    folder = tmp_path / ("x" * 300)
    with pytest.raises(FeatureCacheError, match=r"--policy\.feature_cache=.*xxx can't be written: File name too long"):
        build(settings(data, released, folder))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"freeze_vggt": False}, "freeze_vggt"),
        ({"fusion": "early"}, "fusion"),
        ({"vision": "patch", "vision_patch_size": 8}, "vision"),
        ({"random_shift": 4}, "feature_cache_copies"),
        ({"feature_cache_copies": 4}, "feature_cache_copies"),
        ({"feature_cache_copies": 0}, "feature_cache_copies"),
        ({"empty_cameras": 1}, "empty_cameras"),
    ],
)
def test_settings_that_leave_no_use_for_a_cache_are_refused(overrides, named):
    with pytest.raises(ConfigError, match=named):
        tiny_config(**({"feature_cache": "somewhere", "freeze_vggt": True} | overrides))


def test_what_build_refuses(data, released, tmp_path):
    with pytest.raises(FeatureCacheError, match=r"--policy\.feature_cache=FOLDER"):
        build(settings(data, released, None))
    cfg = settings(data, released, tmp_path / "x")
    cfg.dataset.image_transforms.enable = True
    with pytest.raises(FeatureCacheError, match="image_transforms"):
        build(cfg)
    assert not (tmp_path / "x").exists()


def test_adapters_in_vggt_are_refused_before_anything_is_computed(data, released, tmp_path):
    cfg = settings(data, released, tmp_path / "peft")
    cfg.peft = PeftConfig(method_type="LORA")
    with pytest.raises(FeatureCacheError, match=r"--peft\.target_modules"):
        build(cfg)
    assert not (tmp_path / "peft").exists()


def test_the_stem_of_the_tiny_preset_has_a_cache_too(data, tmp_path):
    """Its weights were never released, so no rule renames them."""
    overrides = {"vggt_init": "random", "freeze_vggt": True, "fusion": "late", "feature_cache": str(tmp_path / "cache")}
    config = tiny_config(input_features={}, output_features={}, **overrides)
    dataset = DatasetConfig(repo_id=REPO_ID, root=str(data))
    cfg = TrainPipelineConfig(dataset=dataset, policy=config, batch_size=8, num_workers=0)
    folder = build(copy.deepcopy(cfg))
    assert files.read_key(folder).frames == TOTAL
    from accelerate.utils import set_seed
    from lerobot.policies.factory import make_policy as lerobots

    set_seed(cfg.seed)
    policy = lerobots(config, ds_meta=LeRobotDataset(REPO_ID, root=data).meta)
    assert policy.feature_cache is not None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--policy.views=[observation.images.third]"], "views names"),
        (["--dataset.root=nowhere"], "--dataset.repo_id=.*, --dataset.root=nowhere, can't be read"),
        (["--policy.feature_cache=null"], "Name the folder of the cache"),
        (["--config_path=nowhere.yaml"], ".*nowhere.yaml"),
    ],
)
def test_what_can_not_be_cached_is_one_line(data, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    usual = ["--policy.type=atlasvla", "--policy.push_to_hub=false", f"--dataset.repo_id={REPO_ID}"]
    usual += [f"--dataset.root={data}", "--policy.feature_cache=cache", "--policy.device=cpu"]
    for part in ("vggt", "language"):
        usual.append(f"--policy.{part}_init=random")
    given = dict(flag.split("=", 1) for flag in (*usual, "--policy.freeze_vggt=true", *flags))
    monkeypatch.setattr("sys.argv", ["atlasvla-cache", *(f"{flag}={value}" for flag, value in given.items())])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(build_module, "init_logging", lambda: None)
    assert build_module.main() == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"atlasvla-cache: .*({words})", said)
    assert not (tmp_path / "cache").exists()
