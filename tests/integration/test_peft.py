"""LoRA through LeRobot's own command, from pretrained backbones and no checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy, make_pre_post_processors
from peft import PeftModel
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import raw_batch
from tests.helpers.commands import succeed
from tests.integration.test_train_and_eval import TINY
from tests.integration.test_training_surfaces import LIBERO

ADAPTER = "adapter_model.safetensors"


def pretrained_flags(root: Path) -> list[str]:
    return [
        "--policy.vggt_init=pretrained",
        f"--policy.vggt_model={root / 'vggt'}",
        "--policy.vggt_patch_embed=conv",
        "--policy.vggt_num_heads=2",
        "--policy.vggt_depth=2",
        "--policy.vggt_output_layers=[0,1]",
        "--policy.language_init=pretrained",
        f"--policy.language_model={root / 'qwen3'}",
    ]


@pytest.fixture(scope="module")
def trained(root, dataset_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("peft") / "run"
    succeed(
        "lerobot-train",
        *TINY,
        *pretrained_flags(root),
        "--peft.method_type=LORA",
        "--peft.r=4",
        "--policy.peft_language=true",
        "--policy.optimizer_lr=0.01",
        # The first step of a warm-up changes nothing, and until the decoder's gates open nothing reaches the adapters.
        "--policy.scheduler_warmup_steps=0",
        "--policy.random_shift=0",
        f"--dataset.root={dataset_root}",
        f"--output_dir={output}",
        "--steps=3",
        "--save_freq=2",
    )
    return output


def load(folder: Path, dataset: Path):
    """The lines any Python user of LeRobot writes."""
    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    config.device = "cpu"
    return make_policy(config, ds_meta=LeRobotDatasetMetadata("local/test", root=dataset))


def actions(policy, folder: Path) -> torch.Tensor:
    config = PreTrainedConfig.from_pretrained(folder)
    preprocessor, postprocessor = make_pre_post_processors(config, pretrained_path=str(folder))
    return postprocessor(policy.predict_action_chunk(preprocessor(raw_batch(2))))


def test_adapt_resume_reload_merge(trained, dataset_root, tmp_path):
    first = trained / "checkpoints/000002/pretrained_model"
    assert not (first / "model.safetensors").exists()
    assert json.loads((first / "config.json").read_text())["use_peft"]
    tensors = load_file(first / ADAPTER)
    in_backbones = [name for name in tensors if ".aggregator." in name or ".language." in name]
    assert in_backbones
    assert all(".lora_" in name and 4 in tensors[name].shape for name in in_backbones)
    # LoRA's B starts at zero: two steps of training are in the file.
    assert all(tensors[name].any() for name in in_backbones if ".lora_B." in name)

    last = trained / "checkpoints/000003/pretrained_model"
    expected = load_file(last / ADAPTER)
    log = succeed("lerobot-train", f"--config_path={first}/train_config.json", "--resume=true")
    assert "PEFT adapter already loaded from checkpoint" in log
    after = load_file(last / ADAPTER)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert all(not torch.equal(after[name], tensors[name]) for name in in_backbones)

    policy = load(last, dataset_root)
    assert isinstance(policy, PeftModel)
    expected = actions(policy, last)
    assert expected.isfinite().all()
    merged = policy.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    whole = AtlasVLAPolicy.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(actions(whole, last), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_is_evaluated_in_libero(trained, tmp_path):
    succeed(
        "lerobot-eval",
        f"--policy.path={trained}/checkpoints/000002/pretrained_model",
        "--policy.device=cpu",
        *LIBERO,
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert json.loads((tmp_path / "eval/eval_info.json").read_text())["overall"]["n_episodes"] == 1
