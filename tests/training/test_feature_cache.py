"""The feature cache: what VGGT made of each frame, read back bit by bit, and never for another frame or policy."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.default import DatasetConfig, PeftConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.commands import cache_features as build_module
from lerobot_atlasvla.commands.cache_features import build
from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.libero.demonstrations.schema import FPS
from lerobot_atlasvla.model.types import GeometryTokens
from lerobot_atlasvla.policy.config_checks import ConfigError
from lerobot_atlasvla.training.feature_cache import files
from lerobot_atlasvla.training.feature_cache.key import FeatureCacheError
from tests.conftest import CHUNK, IMAGE, WRIST, dataset_stats, tiny_config
from tests.helpers.random_dataset import REPO_ID, write_dataset
from tests.helpers.released import open_gates, released_config, write_da3, write_vggt

EPISODES, FRAMES = 2, 12
TOTAL = EPISODES * FRAMES


@pytest.fixture(scope="module")
def data(dataset_root):
    return dataset_root


@pytest.fixture(scope="module")
def released(root):
    return root


def settings(data: Path, released: Path, folder: Path | None, *, episodes=None, **overrides) -> TrainPipelineConfig:
    """What lerobot-train would be told."""
    config = released_config(released, feature_cache=folder and str(folder), **overrides)
    dataset = DatasetConfig(repo_id=REPO_ID, root=str(data), episodes=episodes)
    return TrainPipelineConfig(dataset=dataset, policy=config, batch_size=5, num_workers=0)


def make_policy(cfg: TrainPipelineConfig, data: Path, **meta) -> AtlasVLAPolicy:
    """The policy as LeRobot makes it for training, on the CPU."""
    torch.manual_seed(0)
    facts = SimpleNamespace(**({"repo_id": REPO_ID, "total_frames": TOTAL} | meta))
    policy = AtlasVLAPolicy(cfg.policy, dataset_meta=facts)
    open_gates(policy)
    return policy.train()


def batch_of(policy: AtlasVLAPolicy, data: Path, frames: list[int]) -> dict:
    """Frames of the dataset as they come out of the preprocessor."""
    dataset = LeRobotDataset(REPO_ID, root=data, delta_timestamps={"action": [step / FPS for step in range(CHUNK)]})
    preprocessor, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    return preprocessor(torch.utils.data.default_collate([dataset[frame] for frame in frames]))


@pytest.fixture(scope="module")
def cache(data, released, tmp_path_factory):
    return build(settings(data, released, tmp_path_factory.mktemp("cache") / "features"))


def features_of(policy: AtlasVLAPolicy, batch: dict) -> GeometryTokens:
    return policy.feature_cache.encode_views(prepare_views(policy.config, batch, training=True))


def without_vggt(policy: AtlasVLAPolicy, monkeypatch) -> None:
    def must_not_run(*args, **kwargs):
        raise AssertionError("VGGT ran")

    monkeypatch.setattr(policy.model.aggregator, "embed", must_not_run)
    monkeypatch.setattr(policy.model.aggregator, "attend", must_not_run)


@pytest.mark.parametrize("frames", [[0], [23, 0, 7, 7, 12]])
def test_the_loss_and_its_gradients_are_those_of_the_network(data, released, cache, monkeypatch, frames):
    plain = make_policy(settings(data, released, None), data)
    cached = make_policy(settings(data, released, cache), data)
    without_vggt(cached, monkeypatch)
    losses = [policy(batch_of(policy, data, frames))[0] for policy in (plain, cached)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-7)
    for loss in losses:
        loss.backward()
    gradients = dict(plain.named_parameters())
    learning = {name: parameter for name, parameter in cached.named_parameters() if parameter.grad is not None}
    assert "model.fusion.geometry_projector.projections.0.weight" in learning
    for name, parameter in learning.items():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)
    assert learning.keys() == {name for name, parameter in gradients.items() if parameter.grad is not None}


def test_the_rows_are_what_vggt_gives(data, released, cache):
    policy = make_policy(settings(data, released, cache), data)
    batch = batch_of(policy, data, [3, 20])
    views = torch.stack([batch[IMAGE], batch[WRIST]], dim=1)
    with torch.no_grad():
        expected = policy.model.encode_views(prepare_views(policy.config, batch, training=False))
        reference = policy.model.aggregator(views, policy.config.vggt_output_layers)
    found = features_of(policy, batch)
    assert len(found.layers) == 2
    for mine, other, whole in zip(found.layers, expected.layers, reference.layers, strict=True):
        torch.testing.assert_close(mine, other)
        # The camera token and the patches; four registers lie between them.
        torch.testing.assert_close(mine[:, :, 0], whole[:, :, 0])
        torch.testing.assert_close(mine[:, :, 1:], whole[:, :, 5:])


def test_da3s_rows_are_what_it_gives(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "da3", vision="da3")
    build(cfg)
    plain = make_policy(settings(data, released, None, vision="da3"), data)
    cached = make_policy(cfg, data)
    without_vggt(cached, monkeypatch)
    torch.testing.assert_close(cached(batch_of(cached, data, [3, 20]))[0], plain(batch_of(plain, data, [3, 20]))[0])
    other = {"vision": "da3", "da3_model": str(write_da3(tmp_path / "other", seed=99))}
    with pytest.raises(FeatureCacheError, match=r"does not fit \(weights: sha256:"):
        make_policy(settings(data, released, tmp_path / "da3", **other), data)


def test_a_cache_from_before_da3_is_read(data, released, cache, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(cache, earlier)
    key = json.loads((earlier / "cache.json").read_text())
    key["vggt"] = key.pop("weights")
    (earlier / "cache.json").write_text(json.dumps(key))
    policy = make_policy(settings(data, released, earlier), data)
    assert policy.feature_cache.key.weights == key["vggt"]


def test_bfloat16_features_come_back_bit_by_bit(data, released, tmp_path):
    cfg = settings(data, released, tmp_path / "half", backbone_dtype="bfloat16")
    build(cfg)
    policy = make_policy(cfg, data)
    # The batches in which they were computed.
    batch = batch_of(policy, data, [5, 6, 7, 8, 9])
    with torch.no_grad():
        expected = policy.model.encode_views(prepare_views(policy.config, batch, training=False))
    found = features_of(policy, batch)
    assert found.layers[0].dtype == torch.bfloat16
    assert all(map(torch.equal, found.layers, expected.layers))
    loss, _ = policy(batch)
    assert loss.isfinite()


def test_copies_are_different_augmentations_and_all_get_used(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "copies", random_shift=4, feature_cache_copies=3)
    build(cfg)
    policy = make_policy(cfg, data)
    batch = batch_of(policy, data, [4])
    drawn = [features_of(policy, batch).layers[0] for _ in range(60)]
    kinds = {tensor.numpy().tobytes() for tensor in drawn}
    assert len(kinds) == 3
    # A held-out loss is for the pictures as they are.
    ran = []
    embed = policy.model.aggregator.embed
    monkeypatch.setattr(policy.model.aggregator, "embed", lambda views: ran.append(views) or embed(views))
    policy.eval()
    policy(batch)
    assert len(ran) == 1
    assert torch.equal(ran[0][:, 0], batch[IMAGE])
    policy.train()
    policy(batch)
    assert len(ran) == 1


def test_frames_that_are_not_there_are_computed(data, released, tmp_path, monkeypatch):
    cfg = settings(data, released, tmp_path / "part", episodes=[1])
    build(cfg)
    plain = make_policy(settings(data, released, None), data)
    cached = make_policy(cfg, data)
    mixed = batch_of(cached, data, [14, 3, 0, 20, 14])
    ran = []
    embed = cached.model.aggregator.embed
    monkeypatch.setattr(cached.model.aggregator, "embed", lambda views: ran.append(views) or embed(views))
    torch.testing.assert_close(cached(mixed)[0], plain(mixed)[0])
    assert [tuple(views.shape) for views in ran] == [(2, 2, 3, 32, 32)]
    assert torch.equal(ran[0][:, 1], mixed[WRIST][[1, 2]])
    cached(batch_of(cached, data, [12, 23]))
    assert len(ran) == 1
    none = batch_of(cached, data, [3, 0])
    torch.testing.assert_close(cached(none)[0], plain(none)[0])


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


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"image_size": (24, 24)}, "image_size"),
        ({"views": (WRIST, IMAGE)}, "views"),
        ({"vggt_output_layers": (1,)}, "output_layers"),
        ({"backbone_dtype": "bfloat16"}, "dtype"),
        ({"random_shift": 2, "feature_cache_copies": 2}, "augmentation"),
    ],
)
def test_the_cache_of_another_policy_is_refused_before_training(data, released, cache, overrides, named):
    with pytest.raises(FeatureCacheError, match=rf"does not fit.*{named}.*--policy\.feature_cache"):
        make_policy(settings(data, released, cache, **overrides), data)


def test_other_weights_or_other_data_are_refused_before_training(data, released, cache, tmp_path):
    other = write_vggt(tmp_path / "vggt", seed=99)
    with pytest.raises(FeatureCacheError, match="weights: sha256:"):
        make_policy(settings(data, released, cache, vggt_model=str(other)), data)
    cfg = settings(data, released, cache)
    with pytest.raises(FeatureCacheError, match="dataset: local/test, not local/other"):
        make_policy(cfg, data, repo_id="local/other")
    with pytest.raises(FeatureCacheError, match="frames: 24, not 25"):
        make_policy(cfg, data, total_frames=25)


def test_frames_that_look_otherwise_are_refused(data, released, cache, tmp_path):
    """Same name, same number of frames, other pictures."""
    policy = make_policy(settings(data, released, cache), data)
    other = write_dataset(tmp_path / "other", episodes=EPISODES, frames=FRAMES, seed=1)
    with pytest.raises(FeatureCacheError, match=r"Frame 2 does not look as it did"):
        policy(batch_of(policy, other, [2]))
    batch = batch_of(policy, data, [2, 3])
    batch["index"] = batch["index"].flip(0)
    with pytest.raises(FeatureCacheError, match="does not look as it did"):
        policy(batch)
    batch["index"] = torch.tensor([2, TOTAL])
    with pytest.raises(FeatureCacheError, match="frame 24"):
        policy(batch)


def test_vggt_that_learns_after_all_is_refused(data, released, cache):
    policy = make_policy(settings(data, released, cache), data)
    policy.model.aggregator.requires_grad_(True)
    with pytest.raises(ValueError, match="The geometry backbone learns"):
        policy(batch_of(policy, data, [0]))


@pytest.mark.parametrize("name", ["cache.json", "features.bin", "pixels.bin", "done.bin"])
def test_a_damaged_cache_is_refused(data, released, cache, tmp_path, name):
    folder = shutil.copytree(cache, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(FeatureCacheError, match=name):
        make_policy(settings(data, released, folder), data)
    (folder / name).unlink()
    with pytest.raises(FeatureCacheError, match=f"{name}.*missing"):
        make_policy(settings(data, released, folder), data)


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


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused(data, released, cache, tmp_path, version):
    folder = shutil.copytree(cache, tmp_path / "newer")
    content = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(content | {"format": version}))
    with pytest.raises(FeatureCacheError, match=f"format {version}"):
        make_policy(settings(data, released, folder), data)


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


def test_a_checkpoint_knows_nothing_of_the_cache(data, released, cache, tmp_path):
    policy = make_policy(settings(data, released, cache), data)
    policy.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["feature_cache"] is None
    assert policy.config.feature_cache == str(cache)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert loaded.config.feature_cache is None
    # For acting nobody needs the cache, wherever the policy comes from.
    config = released_config(released, feature_cache=str(tmp_path / "gone"))
    assert AtlasVLAPolicy(config).feature_cache is None


def test_a_checkpoint_trains_on_with_the_cache(data, released, cache, tmp_path, monkeypatch):
    first = make_policy(settings(data, released, cache), data)
    first.save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    config.feature_cache = str(cache)
    meta = SimpleNamespace(repo_id=REPO_ID, total_frames=TOTAL)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved", config=config, dataset_meta=meta).train()
    without_vggt(loaded, monkeypatch)
    batch = batch_of(loaded, data, [0, 1])
    assert torch.equal(loaded(batch)[0], first(batch)[0])


def test_copies_and_pickles_of_a_policy_read_the_same_files(data, released, cache, monkeypatch):
    policy = make_policy(settings(data, released, cache), data)
    batch = batch_of(policy, data, [9])
    expected = policy(batch)[0]
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        # Not a copy in memory of files that may have hundreds of gigabytes.
        assert isinstance(other.feature_cache._reader._features, np.memmap)
        without_vggt(other, monkeypatch)
        assert torch.equal(other(batch)[0], expected)


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
