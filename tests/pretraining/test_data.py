"""The data of atlasvla-pretrain: what they must have, what is recorded of them, and which episodes are held out."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from lerobot_atlasvla.pretraining import data as data_module
from lerobot_atlasvla.pretraining.data import APART_M, _check_numbers, _set_apart, read_data
from lerobot_atlasvla.pretraining.settings import PretrainError
from lerobot_atlasvla.pretraining.trainer import Trainer, pretrain
from tests.helpers.geometry.dataset import write_geometry_dataset
from tests.pretraining.runs import refused, settings


@pytest.mark.parametrize(
    "lacking",
    ["observation.depth.scene_1", "observation.cameras.wrist.intrinsics", "observation.cameras.scene_0.extrinsics"],
)
def test_data_without_depth_or_cameras_are_refused_by_name(tmp_path, lacking):
    root = write_geometry_dataset(tmp_path / "data", episodes=1, frames=1, drop=lacking)
    message = refused(root, tmp_path / "backbone")
    assert lacking in message
    assert "atlasvla-collect-geometry" in message


def test_data_that_tell_what_is_where_give_a_backbone_too(tmp_path):
    root = write_geometry_dataset(tmp_path / "data", episodes=2, frames=3, objects=True)
    errors = pretrain(settings(root, tmp_path / "backbone", steps=1))
    assert {"match_scene_cm", "match_wrist_cm", "match_scene_wrist_cm"} <= errors.keys()
    for view in ("scene_0", "wrist"):
        data = json.loads((root / "meta/info.json").read_text())
        data["features"][f"observation.object_coordinates.{view}"]["shape"] = [8, 8, 3]
        (root / "meta/info.json").write_text(json.dumps(data))
    assert "observation.object_coordinates.wrist of shape (8, 8, 4)" in refused(root, tmp_path / "other")


def test_no_dataset_is_refused(tmp_path):
    assert "no meta/info.json" in refused(tmp_path, tmp_path / "backbone")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{")
    assert "can't be read" in refused(tmp_path, tmp_path / "backbone")


def test_what_the_data_were_collected_with_is_recorded(data_root, tmp_path):
    root = shutil.copytree(data_root, tmp_path / "data")
    (root / "meta/atlasvla_geometry.json").write_text('{"settings": {"azimuth": [-75.0, 75.0]}}')
    pretrain(settings(root, tmp_path / "backbone", steps=0))
    content = json.loads((tmp_path / "backbone/config.json").read_text())
    assert content["data"]["collected"] == {"azimuth": [-75.0, 75.0]}
    (root / "meta/atlasvla_geometry.json").write_text("[]")
    assert "atlasvla_geometry.json is damaged" in refused(root, tmp_path / "other")


def test_some_episode_is_trained_on_however_many_are_held_out(data_root, tmp_path):
    assert (
        len(Trainer(settings(data_root, tmp_path, held_out=0.9), read_data(settings(data_root, tmp_path))).training_N)
        == 2
    )


def test_bodies_are_far_apart_in_whatever_order_they_come():
    shown_NAhw4 = torch.tensor(
        [[[[[0.1, 0.2, 0.3, 7.0], [0.1, 0.2, 0.3, 2.0]]]], [[[[0.0, 0.0, 0.0, 7.0], [1.0, 0, 0, 9.0]]]]]
    )
    apart = _set_apart(shown_NAhw4.clone())
    assert torch.equal(apart[..., :3], shown_NAhw4[..., :3])
    assert apart[..., 3].flatten().tolist() == [APART_M, 0.0, APART_M, 2 * APART_M]


def test_one_episode_leaves_none_to_hold_out(tmp_path):
    root = write_geometry_dataset(tmp_path / "data", episodes=1, frames=3)
    assert "at least two" in refused(root, tmp_path / "backbone")


def test_copies_of_a_demonstration_are_held_out_together(data_root, tmp_path):
    """Such as those of ``atlasvla-collect --random_cameras --store_geometry``: the last two episodes are the same."""
    root = shutil.copytree(data_root, tmp_path / "data")
    (file,) = (root / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    for key in ("action", "observation.state"):
        motion = table[key].to_pylist()
        place = table.schema.get_field_index(key)
        table = table.set_column(place, key, pa.array([*motion[:4], *motion[2:4]], type=table[key].type))
    parquet.write_table(table, file)
    data = read_data(settings(root, tmp_path / "backbone"))
    assert data.episodes_N.tolist() == [0, 0, 1, 1, 1, 1]
    for seed in range(4):
        training_N, held_out_N = data.split(0.3, seed)
        assert sorted((len(training_N), len(held_out_N))) == [2, 4]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("depth_NAhw", 0.0, "depth of scene_0 in frame 1"),
        ("depth_NAhw", float("inf"), "depth of scene_0 in frame 1"),
        ("intrinsics_NA33", 0.0, "camera matrix of scene_0 in frame 1"),
        ("extrinsics_NA44", float("nan"), "camera pose of scene_0 in frame 1"),
        ("extrinsics_NA44", 2.0, "rotation of the camera of scene_0 in frame 1"),
        ("object_coordinates_NAhw4", float("nan"), "object coordinate of scene_0 in frame 1"),
    ],
)
def test_numbers_that_cannot_be_are_named(data_root, tmp_path, field, value, words):
    root = data_root
    if field == "object_coordinates_NAhw4":
        root = write_geometry_dataset(tmp_path / "data", episodes=2, frames=2, objects=True)
    config = settings(root, tmp_path)
    data = read_data(config)
    getattr(data, field)[1, 1] = value
    with pytest.raises(PretrainError, match=re.escape(words)):
        _check_numbers(config, data, ["wrist", "scene_0", "scene_1"])


def test_data_that_do_not_fit_into_memory_are_refused(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "available_memory", lambda: 0)
    assert "GB are available: choose a smaller --image_size, or fewer --views" in refused(data_root, tmp_path / "new")
