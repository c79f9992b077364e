"""atlasvla-pretrain from data to backbone: what it writes, how it goes on, what it refuses."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lerobot_atlasvla.commands.pretrain import main
from lerobot_atlasvla.model.geometry.record import read_record
from lerobot_atlasvla.pretraining import trainer
from lerobot_atlasvla.pretraining.settings import PretrainConfig
from lerobot_atlasvla.pretraining.trainer import Trainer, pretrain
from tests.helpers.geometry.dataset import PIXELS, write_geometry_dataset
from tests.pretraining.runs import SMALL, refused, settings


@pytest.fixture(scope="module")
def made(data_root, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("made") / "backbone"
    pretrain(settings(data_root, folder))
    return folder


def test_a_run_leaves_a_backbone_with_record_card_measurements_and_pictures(made, data_root):
    files = {path.name for path in made.iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md", "metrics.json", "depth.png", "matches.png"}
    record = read_record(made)
    assert record is not None
    assert (record.views, record.image_size, record.embed_dim) == (("wrist", "scene"), (PIXELS, PIXELS), 16)
    names = load_file(made / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"aggregator", "point_heads"}
    assert "aggregator.frame_blocks.0.attn.qkv.weight" in names
    content = json.loads((made / "config.json").read_text())
    assert content["data"]["states"] == 6
    assert content["data"]["held_out_states"] == 2
    assert content["data"]["measured_states"] == 2
    assert "Medians over 2 of 2 held-out states, of 6 in all" in (made / "README.md").read_text()
    assert content["data"]["digest"].startswith("sha256:")
    low, high = content["data"]["ranges"]["wrist"]["depth_m"]
    assert 0 < low < high
    assert str(data_root) not in (made / "config.json").read_text() + (made / "README.md").read_text()
    history = json.loads((made / "metrics.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4, 5]
    wanted = {"wrist_points_cm", "scene_points_cm", "scene_depth_cm", "scene_camera_cm", "scene_camera_deg"}
    assert wanted | {"match_scene_cm"} <= history[-1]["held_out"].keys()
    assert "wrist_camera_cm" not in history[-1]["held_out"]
    assert all(np.isfinite(value) and value >= 0 for value in history[-1]["held_out"].values())
    assert np.asarray(Image.open(made / "depth.png")).std() > 0


def test_the_scales_are_those_of_the_data(made):
    heads = read_record(made).heads
    wrist, scene = heads.statistics["intrinsics"]
    assert wrist == pytest.approx([-20 / PIXELS, 0, 0.5, 0, 20 / PIXELS, 0.5, 0, 0, 1])
    assert scene[0] == pytest.approx(-40 / PIXELS)
    # The reference looks from itself.
    assert heads.statistics["pose"][0] == pytest.approx([0, 0, 0, 1, 0, 0, 0, 1, 0], abs=1e-5)
    assert np.exp(heads.statistics["log_depth"][0]) < np.exp(heads.statistics["log_depth"][1])


def test_a_killed_run_goes_on_bit_for_bit(made, data_root, tmp_path, monkeypatch):
    step = Trainer._train_step

    def killed(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    folder = tmp_path / "backbone"
    monkeypatch.setattr(Trainer, "_train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings(data_root, folder))
    assert not (folder / "config.json").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000000002"]
    began = []
    monkeypatch.setattr(Trainer, "_train_step", lambda self: (began.append(self.step), step(self))[1])
    torch.manual_seed(123)
    pretrain(settings(data_root, folder))
    assert began == [2, 3, 4]
    assert (folder / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()

    def learned(place):
        history = json.loads((place / "metrics.json").read_text())
        return [(entry["step"], entry["losses"], entry["held_out"]) for entry in history]

    # Losses since the last measurement, which the killed run had not lost.
    assert learned(folder) == learned(made)


def test_a_finished_backbone_is_left_alone(made, data_root, monkeypatch):
    monkeypatch.setattr(trainer, "read_data", lambda config: pytest.fail("nothing is left to do"))
    before = (made / "config.json").stat().st_mtime_ns
    assert pretrain(settings(data_root, made)) == json.loads((made / "config.json").read_text())["held_out"]
    assert (made / "config.json").stat().st_mtime_ns == before


def test_a_finished_backbone_is_of_these_data_or_of_data_that_are_gone(made, data_root, tmp_path, monkeypatch):
    other = shutil.copytree(data_root, tmp_path / "data")
    (other / "meta/stats.json").write_text("{}")
    assert (other / "meta/info.json").read_bytes() == (data_root / "meta/info.json").read_bytes()
    assert "its meta folder differs" in refused(other, made)
    shutil.rmtree(other)
    assert pretrain(settings(other, made))


def test_what_a_kill_left_in_a_finished_backbone_is_put_right_or_said(made, data_root, tmp_path):
    folder = shutil.copytree(made, tmp_path / "backbone")
    (folder / "checkpoints/000000004").mkdir(parents=True)
    pretrain(settings(data_root, folder))
    assert not (folder / "checkpoints").exists()
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(data_root, folder)


@pytest.mark.parametrize(("name", "value"), [("embed_dim", 32), ("lr", 1e-3), ("seed", 1), ("views", ["scene"])])
def test_a_backbone_made_with_other_settings_is_not_gone_on_with(made, data_root, name, value):
    message = refused(data_root, made, **{name: value})
    assert f"--{name}" in message
    assert "--output_dir" in message


def unfinished(data_root, folder, monkeypatch) -> None:
    def killed(self):
        raise KeyboardInterrupt

    save = Trainer._save
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", lambda self: (save(self), killed(self)))
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings(data_root, folder))


def test_a_run_goes_on_with_its_own_settings_and_data_only(data_root, tmp_path, monkeypatch):
    folder = tmp_path / "backbone"
    unfinished(data_root, folder, monkeypatch)
    message = refused(data_root, folder, steps=6)
    assert "--steps=6 differs from 5" in message
    other = write_geometry_dataset(tmp_path / "other", episodes=4, frames=2)
    assert "its meta folder differs" in refused(other, folder)
    (run,) = folder.glob("checkpoints/*/run.json")
    intact = run.read_text()
    for history in ([], [{"wall_s": 1.0}], [{"wall_s": "1", "cpu_s": "1"}], {}):
        run.write_text(json.dumps(json.loads(intact) | {"history": history}))
        assert "is damaged" in refused(data_root, folder)
    run.write_text(intact)
    (weights,) = folder.glob("checkpoints/*/network.safetensors")
    weights.write_bytes(b"x" * 100)
    assert "is damaged" in refused(data_root, folder)


@pytest.mark.parametrize("foreign", ["notes.txt", "model.bin"])
def test_a_folder_with_something_else_is_left_alone(data_root, tmp_path, foreign):
    (tmp_path / foreign).write_text("mine")
    assert foreign in refused(data_root, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


@pytest.mark.parametrize("change", [{"held_out": [1]}, {"held_out": {"a": "b"}}, {"training": {"settings": [1]}}])
def test_a_record_with_something_of_another_kind_is_refused(made, data_root, tmp_path, change):
    folder = shutil.copytree(made, tmp_path / "backbone")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    assert "config.json is no record of this command" in refused(data_root, folder)


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "[]", "[" * 100_000])
def test_another_models_config_is_no_backbone(data_root, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json is no record of this command" in refused(data_root, tmp_path)


def test_a_second_run_in_the_folder_is_refused(data_root, tmp_path):
    from lerobot_atlasvla.files.folder_lock import FolderLock

    lock = FolderLock(tmp_path / "backbone", "--output_dir")
    assert "--output_dir" in refused(data_root, tmp_path / "backbone")
    lock.release()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": ["wrist", "front"]}, ["front", "['wrist', 'scene_0', 'scene_1']", "--views"]),
        ({"views": ["wrist", "wrist"]}, ["twice", "--views"]),
        ({"views": []}, ["--views"]),
        ({"patch_size": 16, "image_size": [24, 24]}, ["[24, 24]", "--image_size", "--patch_size"]),
        ({"patch_size": 4}, ["(8, 8) cells", "(16, 16)", "--patch_size"]),
        ({"patch_size": 6}, ["power of two", "--patch_size"]),
        ({"image_size": [32]}, ["--image_size"]),
        ({"embed_dim": 18}, ["--embed_dim=18", "--num_heads"]),
        ({"steps": -1}, ["--steps=-1"]),
        ({"lr": float("nan")}, ["--lr"]),
        ({"held_out": 1.0}, ["--held_out"]),
        ({"frame": "world"}, ["--frame=world", "first_view, base"]),
        ({"patch_embed": "resnet"}, ["--patch_embed=resnet"]),
        ({"patch_embed": "dinov2_vits14_reg", "patch_size": 14}, ["--embed_dim=16", "384", "dinov2_vits14_reg"]),
        ({"device": "cuda:77"}, ["--device=cuda:77"]),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(data_root, tmp_path, changes, words):
    message = refused(data_root, tmp_path / "backbone", **changes)
    assert all(word in message for word in words), message
    assert not (tmp_path / "backbone").exists()


def test_a_name_too_long_for_a_folder_is_refused(data_root, tmp_path):
    assert "--output_dir" in refused(data_root, tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("views", "frame", "posed"),
    [
        (["scene"], "base", {"scene"}),
        (["wrist"], "first_view", set()),
        (["wrist", "scene_1"], "base", {"wrist", "scene_1"}),
    ],
)
def test_other_views_and_frames(data_root, tmp_path, views, frame, posed):
    errors = pretrain(settings(data_root, tmp_path / "backbone", views=views, frame=frame, steps=1))
    assert {name.removesuffix("_camera_cm") for name in errors if name.endswith("_camera_cm")} == posed
    assert read_record(tmp_path / "backbone").heads.frame == frame


def test_no_steps_give_an_untrained_control(data_root, tmp_path, made):
    pretrain(settings(data_root, tmp_path / "backbone", steps=0))
    control, trained = read_record(tmp_path / "backbone"), read_record(made)
    assert control == trained
    assert (tmp_path / "backbone/model.safetensors").read_bytes() != (made / "model.safetensors").read_bytes()


def test_the_command_says_what_it_measured_and_how_to_go_on(data_root, tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in (SMALL | {"steps": 1}).items()]
    places = [f"--dataset_root={data_root}", f"--output_dir={tmp_path / 'backbone'}"]
    assert main([*places, *flags]) == 0
    assert "scene_points_cm" in capsys.readouterr().out
    assert main([*places, *flags, "--seed=5"]) == 1
    assert "atlasvla-pretrain: --seed=5 differs from 0" in capsys.readouterr().err
    assert main([*places, "--steps=many"]) == 2


def test_the_default_backbone_is_small_enough_to_keep():
    from lerobot_atlasvla.pretraining.network import PretrainingNetwork
    from tests.helpers.geometry.backbone import record

    defaults = PretrainConfig(dataset_root=None, output_dir=None)
    sizes = record().heads
    heads = type(sizes)(defaults.hidden_dim, defaults.descriptor_dim, 2, "first_view", sizes.statistics)
    network = PretrainingNetwork(defaults.record((64, 64), heads))
    released = sum(tensor.nbytes for tensor in network.released().values())
    assert 3e6 < released < 8e6


def test_a_policy_acts_on_it(made):
    from tests.policy.pretrained_geometry.policies import make

    policy = make(made)
    assert policy.config.vggt_embed_dim == 16
    assert policy.config.view_keys[0].endswith("wrist_image")


def test_copied_folders_work(made, tmp_path):
    assert read_record(shutil.copytree(made, tmp_path / "copy")) == read_record(made)


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_a_backbone(data_root, tmp_path, monkeypatch):
    def burst(*_):
        return {name: torch.tensor(math.nan, requires_grad=True) for name in trainer.WEIGHTS}

    monkeypatch.setattr(trainer, "loss_terms", burst)
    assert "The loss of step 1 is nan: lower --lr=" in refused(data_root, tmp_path / "backbone")
    assert not (tmp_path / "backbone/config.json").exists()
