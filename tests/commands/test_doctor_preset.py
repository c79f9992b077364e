"""atlasvla-check: the items about one preset. No simulator, no Hub."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_atlasvla.commands import doctor_preset
from lerobot_atlasvla.commands.doctor import PART_TITLES
from lerobot_atlasvla.commands.doctor_machine import CheckFailedError
from lerobot_atlasvla.commands.doctor_preset import Trial
from lerobot_atlasvla.libero.demonstrations.schema import FPS, ROBOT_TYPE, libero_features
from lerobot_atlasvla.policy.checks.types import ConfigError
from lerobot_atlasvla.weights.backbones import PARTS
from tests.conftest import IMAGE, TASK, WRIST, tiny_config
from tests.helpers.random_dataset import write_dataset


def trial(repo_id: str = "", root: Path | None = None, asked_device: str | None = None, **overrides) -> Trial:
    features = {"input_features": {}, "output_features": {}}  # as a preset has them: known from the data only
    settings = DatasetConfig(repo_id=repo_id, root=str(root) if root else None)
    return Trial(tiny_config(**features | overrides), settings, asked_device)


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "dataset"
    dataset = LeRobotDataset.create(
        "local/test", fps=FPS, features=libero_features(32), root=root, robot_type=ROBOT_TYPE, use_videos=False
    )
    for _ in range(3):
        frame = {name: np.zeros(feature["shape"], np.uint8) for name, feature in libero_features(32).items()}
        frame |= {"observation.state": np.zeros(8, np.float32), "action": np.zeros(7, np.float32), "task": TASK}
        dataset.add_frame(frame)
    dataset.save_episode()
    dataset.finalize()
    return root


def test_the_device():
    assert doctor_preset.check_device(trial()).startswith("cpu (PyTorch")
    assert doctor_preset.check_device(trial(asked_device="cpu")) == "cpu"
    with pytest.raises(
        CheckFailedError, match=r"cuda:0 was asked for, but PyTorch .* LeRobot would take cpu"
    ) as raised:
        doctor_preset.check_device(trial(asked_device="cuda:0"))
    assert raised.value.fix.startswith("--policy.device=cpu")


# Weights and data.


def test_random_weights_are_named_as_asked():
    assert doctor_preset.check_weights(trial(), "vggt") == "random, as asked (--policy.vggt_init=random)"


def test_weights_are_found_in_a_folder_or_the_ways_out_are_named(tmp_path):
    settings = {"vggt_init": "pretrained", "vggt_patch_embed": "conv", "vggt_model": str(tmp_path)}
    with pytest.raises(CheckFailedError, match=r"no weight file.*--policy.vggt_model.*--policy.vggt_init=random"):
        doctor_preset.check_weights(trial(**settings), "vggt")
    (tmp_path / "model.safetensors").write_bytes(bytes(20_000_000))
    assert doctor_preset.check_weights(trial(**settings), "vggt") == f"0.02 GB in {tmp_path}"


def test_da3s_weights_are_found_and_build_a_policy_or_say_what_they_are(root):
    settings = {"vision": "da3", "image_size": (28, 28), "da3_init": "pretrained"}
    good = trial(da3_model=str(root / "da3"), **settings)
    assert doctor_preset.check_weights(good, "da3").endswith(f"GB in {root / 'da3'}")
    assert " M parameters, " in doctor_preset.check_policy(good)
    assert "loss" in doctor_preset.check_forward(good)
    assert doctor_preset.check_select_action(good).startswith("7 numbers")
    with pytest.raises(CheckFailedError, match=r"vggt holds a VGGT and no Depth Anything 3 \(--policy.da3_model\)"):
        doctor_preset.check_policy(trial(da3_model=str(root / "vggt"), **settings))


def test_every_part_has_a_title():
    assert PART_TITLES.keys() == PARTS.keys()


def test_the_tokenizer(tmp_path):
    assert doctor_preset.check_tokenizer(trial()).startswith("bytes, built in; ")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckFailedError, match=r"--policy\.language_model"):
        doctor_preset.check_tokenizer(trial(language_init="pretrained", language_model=str(tmp_path)))


def test_no_dataset_is_no_fault_but_is_said():
    assert "none configured, so none checked (--dataset.repo_id=NAME" in doctor_preset.check_dataset(trial())


def test_a_dataset_that_is_not_there_names_three_ways(tmp_path):
    folder = tmp_path / "nothing"
    with pytest.raises(CheckFailedError) as raised:
        doctor_preset.check_dataset(trial("a/b", folder))
    assert f"--dataset.root={folder} holds no dataset" in raised.value.detail
    for way in (
        "--dataset.root=FOLDER",
        f"hf download --repo-type dataset a/b --local-dir {folder}",
        f"atlasvla-collect --root={folder}",
    ):
        assert way in raised.value.fix
    assert not folder.exists()


def test_a_dataset_that_cannot_be_had_from_the_hub():
    with pytest.raises(CheckFailedError, match="nor can it be had from the Hub: OfflineModeIsEnabled"):
        doctor_preset.check_dataset(trial("a/b"))


def test_a_dataset_that_fits(dataset_root):
    subject = trial("local/test", dataset_root)
    line = doctor_preset.check_dataset(subject)
    assert f"in {dataset_root}: 1 episodes, 3 frames; {IMAGE}, {WRIST}; state 8, action 7" in line
    assert "v3" in line
    assert "action" in subject.meta.stats


def test_a_split_through_a_demonstration_passes_with_a_warning(tmp_path):
    subject = trial("local/test", write_dataset(tmp_path / "data", episodes=4, frames=2, copies=3))
    subject.dataset.eval_split = 0.34
    line = doctor_preset.check_dataset(subject)
    assert "WARNING: --dataset.eval_split=0.34 holds out 5 episodes" in line
    assert "copies of 2 of them" in line
    assert "--dataset.eval_split=0.417 keeps them together" in line
    subject.dataset.eval_split = 0.25
    assert "WARNING" not in doctor_preset.check_dataset(subject)


def test_a_dataset_without_a_camera_that_is_asked_for(dataset_root):
    with pytest.raises(CheckFailedError, match=r"local/test does not fit: views names .*left.*\(--policy.views\)"):
        doctor_preset.check_dataset(trial("local/test", dataset_root, views=("observation.images.left",)))


def recorded(root, scale: float) -> Path:
    """Two frames with one number for all of an action."""
    dataset = LeRobotDataset.create("local/test", fps=FPS, features=libero_features(32), root=root, use_videos=False)
    for sign in (-1, 1):
        frame = {name: np.zeros(feature["shape"], np.uint8) for name, feature in libero_features(32).items()}
        frame |= {"observation.state": np.zeros(8, np.float32), "task": TASK}
        dataset.add_frame(frame | {"action": np.full(7, sign * scale, np.float32)})
    dataset.save_episode()
    dataset.finalize()
    return root


def test_a_dataset_in_degrees_passes_with_a_warning(tmp_path):
    root, identity = recorded(tmp_path / "data", 90), dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY")
    line = doctor_preset.check_dataset(trial("local/test", root, normalization_mapping=identity))
    assert "WARNING: action is not normalized" in line
    assert "--policy.normalization_mapping" in line
    assert "WARNING" not in doctor_preset.check_dataset(trial("local/test", root))


def test_a_dataset_with_a_number_that_is_not_finite(tmp_path):
    root = recorded(tmp_path / "data", math.nan)
    with pytest.raises(CheckFailedError, match=r"does not fit: action of local/test is not finite: nan .* frame 0"):
        doctor_preset.check_dataset(trial("local/test", root))


def test_damaged_datasets(dataset_root, tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{")
    with pytest.raises(CheckFailedError, match="can't be read"):
        doctor_preset.check_dataset(trial("local/test", tmp_path))
    (tmp_path / "meta/info.json").unlink()
    (tmp_path / "meta").rmdir()
    (tmp_path / "meta").symlink_to(dataset_root / "meta")
    with pytest.raises(CheckFailedError, match="describes a dataset but has no data"):
        doctor_preset.check_dataset(trial("local/test", tmp_path))


# The policy.


@pytest.mark.parametrize(
    "overrides", [{}, {"head": "flow", "dtype": "bfloat16", "use_state": False, "views": (WRIST,)}]
)
def test_a_small_policy_computes(overrides):
    subject = trial(**overrides)
    assert "M trained" in doctor_preset.check_policy(subject)
    assert "2 made-up samples, loss" in doctor_preset.check_forward(subject)
    assert doctor_preset.check_select_action(subject).startswith("7 numbers; first call")


def test_a_policy_computes_with_a_datasets_features_and_statistics(dataset_root):
    subject = trial("local/test", dataset_root)
    doctor_preset.check_dataset(subject)
    doctor_preset.check_policy(subject)
    assert tuple(subject.policy.config.input_features[IMAGE].shape) == (3, 32, 32)
    doctor_preset.check_forward(subject)
    doctor_preset.check_select_action(subject)


def test_numbers_that_are_not_finite_are_a_fault():
    subject = trial()
    doctor_preset.check_policy(subject)
    with torch.no_grad():
        for parameter in subject.policy.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(CheckFailedError, match="is nan"):
        doctor_preset.check_forward(subject)
    with pytest.raises(CheckFailedError, match="7 finite numbers were expected"):
        doctor_preset.check_select_action(subject)


def test_weights_that_do_not_fit_give_the_policys_own_message(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    subject = trial(vggt_init="pretrained", vggt_patch_embed="conv", vggt_model=str(tmp_path))
    with pytest.raises(CheckFailedError, match="download it again"):
        doctor_preset.check_policy(subject)


@pytest.mark.parametrize("check", [doctor_preset.check_dataset, doctor_preset.check_policy])
def test_statistics_that_do_not_fit_give_the_policys_own_message(dataset_root, monkeypatch, check):
    def refuse(*_, **__):
        raise ConfigError("the statistics lack q01 (--policy.normalization_mapping)")

    subject = trial("local/test", dataset_root)
    if check is doctor_preset.check_policy:
        doctor_preset.check_dataset(subject)
        monkeypatch.setattr("lerobot_atlasvla.processor_atlasvla.usable_statistics", refuse)
    else:
        monkeypatch.setattr("lerobot_atlasvla.training.dataset_checks.check_numbers", refuse)
    with pytest.raises(CheckFailedError, match="the statistics lack q01"):
        check(subject)


def test_peak_memory_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**31)
    line = doctor_preset._peak_memory("cuda:0")
    assert line.startswith("2.0 GiB on the GPU, ")
