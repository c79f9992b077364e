"""Pushing to the Hub and loading from it, by the real client, against a Hub on loopback."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import ModelCard
from lerobot.configs.default import DatasetConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.factory import make_pre_post_processors
from peft import PeftConfig, PeftModel
from safetensors.torch import load, load_file

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.policy.pipelines.files import PipelineError
from lerobot_atlasvla.weights.download import forget
from tests.conftest import ACTION_DIM, TASK, dataset_stats, raw_batch
from tests.helpers import ROOT
from tests.helpers.hub.upload_server import HubUploadServer
from tests.helpers.released import WEIGHTS, files_of, preprocessed, released_policy, write_all
from tests.integration.test_train_and_eval import TINY

REPO = "user/repo"
EYES = "facebook/VGGT-1B"
WORDS = "someone/words"
# What LeRobot pushes, in three commits: the policy, the preprocessor, the postprocessor.
POLICY_FILES = {"config.json", "train_config.json", WEIGHTS, "README.md"}
PROCESSOR_FILES = {
    "policy_preprocessor.json",
    "policy_preprocessor_step_2_lerobot_atlasvla_tokenizer.safetensors",
    "policy_preprocessor_step_4_normalizer_processor.safetensors",
    "policy_postprocessor.json",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}
PRETRAINED = [
    f"--policy.vggt_model={EYES}",
    "--policy.vggt_init=pretrained",
    "--policy.vggt_patch_embed=conv",
    "--policy.vggt_depth=2",
    "--policy.vggt_num_heads=2",
    "--policy.vggt_output_layers=[0,1]",
    "--policy.language_init=pretrained",
    f"--policy.language_model={WORDS}",
]


class Published(NamedTuple):
    hub: HubUploadServer
    root: Path
    eyes: str
    words: str


class Pushed(NamedTuple):
    hub: HubUploadServer
    root: Path
    eyes: str
    local: Path
    log: str


pytestmark = pytest.mark.usefixtures("nothing_downloaded")


def publish(hub: HubUploadServer, root: Path) -> Published:
    return Published(
        hub, root, hub.publish(EYES, files_of(root / "vggt")), hub.publish(WORDS, files_of(root / "qwen3"))
    )


def train(
    dataset: Path, output: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("lerobot-train")),
            *TINY,
            *PRETRAINED,
            f"--dataset.root={dataset}",
            f"--output_dir={output}",
            "--steps=2",
            "--policy.push_to_hub=true",
            f"--policy.repo_id={REPO}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=inherited | environment,
    )


@pytest.fixture(scope="module")
def pushed(root, dataset_root, tmp_path_factory):
    """Two steps of lerobot-train on frozen backbones from the Hub, and the push at its end."""
    folder = tmp_path_factory.mktemp("push")
    with HubUploadServer() as hub:
        _, _, eyes, _ = publish(hub, root)
        done = train(dataset_root, folder / "run", hub.environment(folder / "home"))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        local = folder / "run/checkpoints/last/pretrained_model"
        yield Pushed(hub, root, eyes, local, done.stdout + done.stderr)


@pytest.fixture
def published(root, monkeypatch, tmp_path):
    with HubUploadServer() as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield publish(hub, root)


def make_policy(root: Path, **overrides) -> AtlasVLAPolicy:
    values = {"vggt_model": EYES, "language_model": WORDS, "push_to_hub": True, "repo_id": REPO} | overrides
    return released_policy(root, **values)


def push(policy: AtlasVLAPolicy) -> None:
    """The end of lerobot-train."""
    policy.push_model_to_hub(TrainPipelineConfig(dataset=DatasetConfig(repo_id="local/test"), policy=policy.config))
    for processor in make_atlasvla_pre_post_processors(policy.config, dataset_stats()):
        processor.push_to_hub(policy.config.repo_id)


def actions_of(policy: AtlasVLAPolicy, source: str) -> torch.Tensor:
    """From an observation as LeRobot's data loader hands it over to an action for the robot."""
    preprocess, postprocess = make_pre_post_processors(policy.config, source)
    policy.reset()
    return postprocess(policy.select_action(preprocess(raw_batch())))


def test_lerobot_train_pushes_everything(pushed):
    files = pushed.hub.files(REPO)
    assert files.keys() - {".gitattributes"} == POLICY_FILES | PROCESSOR_FILES
    assert f"Model pushed to {pushed.hub.url}/{REPO}" in pushed.log
    assert [repo for repo, _ in pushed.hub.commits] == [REPO] * 3
    assert json.loads(files["train_config.json"])["steps"] == 2
    # What the run left on this machine.
    for name in PROCESSOR_FILES:
        assert files[name] == (pushed.local / name).read_bytes()
    # Not byte for byte: safetensors writes the entries of a file's metadata in any order.
    weights, local = load(files[WEIGHTS]), load_file(pushed.local / WEIGHTS)
    assert weights.keys() == local.keys()
    assert all(torch.equal(weights[name], local[name]) for name in local)
    (tokenizer,) = load(files["policy_preprocessor_step_2_lerobot_atlasvla_tokenizer.safetensors"]).values()
    assert b"tokenizer" in tokenizer.numpy().tobytes()


def test_the_pushed_card(pushed):
    card = ModelCard(pushed.hub.files(REPO)["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == [EYES, WORDS]
    assert f'AtlasVLAPolicy.from_pretrained("{REPO}")' in card.text
    assert f"`{pushed.eyes}`" in card.text
    assert "2 episodes, 24 frames at 10 fps" in card.text
    assert "| steps | 2 |" in card.text
    assert f"- {TASK}" in card.text


def test_loaded_from_the_hub_it_acts_as_the_local_one(pushed, monkeypatch, tmp_path):
    pushed.hub.use(monkeypatch, tmp_path / "cache")
    # Whatever the backbone's owner does next.
    pushed.hub.publish(EYES, {WEIGHTS: b"another network"})
    before = len(pushed.hub.requests)
    policy = AtlasVLAPolicy.from_pretrained(REPO)
    actions = actions_of(policy, REPO)
    requests = pushed.hub.requests[before:]
    large = [line for line in requests if line.startswith("GET /large/")]
    assert len(large) == len(set(large)), large
    assert [line for line in large if f"/{EYES}/" in line] == [f"GET /large/{pushed.eyes}/{EYES}/{WEIGHTS}"]

    local = AtlasVLAPolicy.from_pretrained(pushed.local)
    assert torch.equal(actions, actions_of(local, str(pushed.local)))
    assert actions.shape == (3, ACTION_DIM)


def test_a_pipeline_on_the_hub_chooses_no_code(published):
    push(make_policy(published.root, save_full_weights=True))
    AtlasVLAPolicy.from_pretrained(REPO)
    hostile = {"steps": [{"class": "subprocess.Popen", "config": {"args": ["false"]}}]}
    published.hub.publish(REPO, published.hub.files(REPO) | {"policy_postprocessor.json": json.dumps(hostile).encode()})
    with pytest.raises(PipelineError, match=r"import path 'subprocess\.Popen'"):
        AtlasVLAPolicy.from_pretrained(REPO)


def test_loaded_again_nothing_is_downloaded_again(pushed, monkeypatch, tmp_path):
    pushed.hub.use(monkeypatch, tmp_path / "cache")
    AtlasVLAPolicy.from_pretrained(REPO)
    forget()
    before = len(pushed.hub.requests)
    AtlasVLAPolicy.from_pretrained(REPO)
    assert not [line for line in pushed.hub.requests[before:] if line.startswith("GET /large/")]


def test_the_lines_in_the_card_run(pushed, monkeypatch, tmp_path):
    pushed.hub.use(monkeypatch, tmp_path / "cache")
    card = ModelCard(pushed.hub.files(REPO)["README.md"].decode())
    code = card.text.split("```python\n")[1].split("```")[0]
    observation = {key: value[0] for key, value in raw_batch().items() if key.startswith("observation.")}
    names = {"observation": observation | {"task": TASK}}
    exec(code, names)
    assert names["action"].shape == (1, ACTION_DIM)


def test_full_weights_need_no_source(published, tmp_path, monkeypatch):
    policy = make_policy(published.root, save_full_weights=True)
    push(policy)
    card = ModelCard(published.hub.files(REPO)["README.md"].decode())
    assert card.data.license == "cc-by-nc-4.0"
    forget()
    published.hub.use(monkeypatch, tmp_path / "fresh")
    before = len(published.hub.requests)
    again = AtlasVLAPolicy.from_pretrained(REPO)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in policy.state_dict().items())
    assert not [line for line in published.hub.requests[before:] if EYES in line or WORDS in line]


def test_a_second_push_replaces_the_first(published):
    policy = make_policy(published.root)
    push(policy)
    first, before = published.hub.find(REPO, "main")[0], policy.model.head.proj.bias.detach().clone()
    with torch.no_grad():
        policy.model.head.proj.bias.add_(1)
    push(policy)
    assert published.hub.created == [REPO]
    again = AtlasVLAPolicy.from_pretrained(REPO)
    assert torch.equal(again.model.head.proj.bias, policy.model.head.proj.bias)
    assert torch.equal(AtlasVLAPolicy.from_pretrained(REPO, revision=first).model.head.proj.bias, before)


def test_an_adapter_on_the_hub(published):
    policy = make_policy(published.root)
    adapted = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 if "lora_" in name else 0.01)
    config = TrainPipelineConfig(dataset=DatasetConfig(repo_id="local/test"), policy=policy.config)
    adapted.push_model_to_hub(config, peft_model=adapted)
    files = published.hub.files(REPO)
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"} <= files.keys()
    assert WEIGHTS not in files
    card = ModelCard(files["README.md"].decode())
    assert "a PEFT adapter" in card.text
    assert card.data.license == "apache-2.0"

    forget()
    settings = PreTrainedConfig.from_pretrained(REPO)
    adapter = PeftConfig.from_pretrained(REPO)
    base = AtlasVLAPolicy.from_pretrained(adapter.base_model_name_or_path, config=settings)
    again = PeftModel.from_pretrained(base, REPO, config=adapter)
    batch = preprocessed(settings, TASK)
    assert torch.equal(again.select_action(batch), adapted.select_action(batch))


def test_a_policy_on_local_weights_is_pushed_with_a_warning_and_refused_elsewhere(published, tmp_path, caplog):
    write_all(tmp_path / "mine")
    policy = make_policy(published.root, vggt_model=str(tmp_path / "mine/vggt"))
    with caplog.at_level(logging.WARNING):
        push(policy)
    assert "refers to weights in local folders (vggt)" in caplog.text
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"--policy\.vggt_model"):
        AtlasVLAPolicy.from_pretrained(REPO)
