"""atlasvla-export as a command: what it refuses, in one line, before anything is written."""

import importlib.util

import pytest

from eval.rollout.policy.checkpoint import read_checkpoint
from lerobot_atlasvla.commands.export import main
from lerobot_atlasvla.export.settings import ExportConfig
from tests.conftest import IMAGE, tiny_config
from tests.helpers.released import save_checkpoint
from tests.helpers.small_checkpoints import SMALL_ACT

ONLY_CONFIG = {
    "flow": {"head": "flow"},
    "l1": {"head": "l1"},
    "ensembling": {"n_action_steps": 1, "temporal_ensemble_coeff": 0.1},
    "landmarks": {"query_conditioning": "landmarks"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(root / "l1", views="none")
    for name, settings in ONLY_CONFIG.items():
        folder = root / f"only_config_{name}"
        folder.mkdir()
        tiny_config(**settings)._save_pretrained(folder)
    from lerobot.policies.act.configuration_act import ACTConfig

    (root / "act").mkdir()
    ACTConfig(**SMALL_ACT)._save_pretrained(root / "act")
    (root / "adapter").mkdir()
    tiny_config()._save_pretrained(root / "adapter")
    (root / "adapter/adapter_config.json").write_text("{}")
    (root / "full").mkdir()
    (root / "full/kept.txt").write_text("kept")
    return root


REFUSED = {
    "format": (["--format=tflite"], "--format=tflite is not known; allowed: onnx."),
    "language": (["--language=audio"], "--language=audio is not known; allowed: table, input."),
    "no checkpoint": (["--checkpoint=nowhere"], "--checkpoint=nowhere is not a folder."),
    "another folder": (["--checkpoint=full"], "--checkpoint=full is not a LeRobot checkpoint: neither it nor its"),
    "full folder": (["--output_dir=full"], "--output_dir=full exists and is not an empty folder; choose a new one."),
    "flow head": (["--checkpoint=only_config_flow"], "has the action head flow, which starts from noise"),
    "ensembling": (["--checkpoint=only_config_ensembling"], "averages chunks, which the exported policy does not"),
    "landmarks": (["--checkpoint=only_config_landmarks"], "whose cameras' places are averaged over an episode"),
    "another policy": (["--checkpoint=act"], "act is a policy of type act, not atlasvla."),
    "no weights": (["--checkpoint=only_config_l1"], "model.safetensors"),
    "adapter": (["--checkpoint=adapter"], "adapter holds an adapter and no whole policy."),
    "camera": (['--image_sizes={"front": [2, 2]}'], "--image_sizes names front, but the policy looks through []."),
    "size": ([f'--image_sizes={{"{IMAGE}": [2]}}'], "the size [2]; it must be [height, width] in pixels, each"),
    "zero": ([f'--image_sizes={{"{IMAGE}": [0, 2]}}'], "the size [0, 2]; it must be [height, width] in pixels, each"),
    "huge": ([f'--image_sizes={{"{IMAGE}": [99999, 99999]}}'], "in pixels, each from 1 to 8192."),
    "no instruction": (["--instructions=[]"], "--instructions=[] must name at least one, and none twice."),
    "twice": (['--instructions=["a", "a"]'], "must name at least one, and none twice."),
    "both": (["--language=input"], "--instructions is for --language=table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_exported_is_refused_in_one_line(root, monkeypatch, capsys, name):
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    flags, message = REFUSED[name]
    given = {"--checkpoint": "l1", "--output_dir": "new/out", "--instructions": '["lift it"]'}
    given |= dict(flag.split("=", 1) for flag in flags)
    assert main([f"{flag}={value}" for flag, value in given.items()]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("atlasvla-export: ")
    assert message in said
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/last", "checkpoints/last/pretrained_model"])
def test_the_checkpoint_may_be_named_by_any_folder_around_it(root, tmp_path, inside):
    last = tmp_path / "run/checkpoints/last"
    last.mkdir(parents=True)
    (last / "pretrained_model").symlink_to(root / "l1")
    settings = ExportConfig(tmp_path / "run" / inside, tmp_path / "out")
    settings.validate()
    assert settings.checkpoint == root / "l1"


def test_a_missing_extra_is_named(root, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    assert main([f"--checkpoint={root / 'l1'}", f"--output_dir={root / 'new'}", '--instructions=["lift it"]']) == 1
    assert capsys.readouterr().err == (
        "atlasvla-export: atlasvla-export needs onnxruntime, which is not installed. Run "
        "`pip install 'lerobot_policy_atlasvla[export]'`\n"
    )


def test_the_command_writes_what_eval_run_reads(root, tmp_path, capsys):
    target = tmp_path / "an export"
    assert main([f"--checkpoint={root / 'l1'}", f"--output_dir={target}", '--instructions=["lift it"]']) == 0
    assert capsys.readouterr().out.strip().endswith(f"is ready: python '{target}/exported_policy.py' '{target}'")
    checkpoint = read_checkpoint(target, "cpu", None)
    assert (checkpoint.kind, checkpoint.is_export) == ("atlasvla (onnx)", True)
