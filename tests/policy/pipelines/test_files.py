"""A checkpoint's pipelines must not choose which code runs when the checkpoint is loaded."""

import json
import sys

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.processor import ProcessorStep, ProcessorStepRegistry

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import read_checkpoint
from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.policy.pipelines import files
from lerobot_atlasvla.policy.pipelines.files import FILES, PipelineError, check_pipelines
from tests.helpers import released


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    released.save_checkpoint(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def rewrite(checkpoint, name, change):
    content = json.loads((checkpoint / name).read_text())
    change(content)
    (checkpoint / name).unlink()
    (checkpoint / name).write_text(json.dumps(content))


@pytest.fixture
def attack(tmp_path, monkeypatch):
    """The import path of a class that leaves a file when its module is imported, and a way to ask whether it was."""
    (tmp_path / "attack.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Step:\n    def __init__(self, **kwargs): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "attack.Step", (tmp_path / "ran").exists
    sys.modules.pop("attack", None)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("registry_name", [{}, {"registry_name": None}, {"registry_name": ["x"]}])
def test_an_import_path_is_refused_before_it_is_imported(checkpoint, attack, name, registry_name):
    path, ran = attack
    rewrite(checkpoint, name, lambda content: content["steps"].append({"class": path, "config": {}} | registry_name))
    with pytest.raises(PipelineError, match=r"import path 'attack\.Step'"):
        AtlasVLAPolicy.from_pretrained(checkpoint)
    with pytest.raises(EvalError, match=r"import path 'attack\.Step'"):
        read_checkpoint(checkpoint, "cpu", None)
    assert not ran()


def test_the_attack_works_on_who_does_not_check(checkpoint, attack):
    """What the test above guards against: LeRobot's own loader imports the module."""
    from lerobot.processor import PolicyProcessorPipeline

    path, ran = attack
    rewrite(checkpoint, FILES[1], lambda content: content["steps"].append({"class": path, "config": {}}))
    with pytest.raises(Exception):  # noqa: B017, PT011 - it complains, but too late
        PolicyProcessorPipeline.from_pretrained(checkpoint, FILES[1])
    assert ran()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("steps"),
        lambda content: content.update(steps=5),
        lambda content: content.update(steps=["normalizer_processor"]),
    ],
)
def test_what_is_no_pipeline_is_named(checkpoint, change):
    rewrite(checkpoint, FILES[0], change)
    with pytest.raises(PipelineError, match=r"policy_preprocessor\.json is not a pipeline of LeRobot"):
        AtlasVLAPolicy.from_pretrained(checkpoint)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_what_is_no_json_is_named(checkpoint, content):
    (checkpoint / FILES[0]).unlink()  # a link to what the other tests read
    (checkpoint / FILES[0]).write_text(content)
    with pytest.raises(PipelineError, match=r"policy_preprocessor\.json is not a pipeline of LeRobot"):
        check_pipelines(checkpoint)


@pytest.mark.parametrize("state", ["../secret.safetensors", "/etc/secret", 3, ""])
def test_the_state_lies_beside_the_pipeline(checkpoint, state):
    rewrite(checkpoint, FILES[0], lambda content: content["steps"][2].update(state_file=state))
    with pytest.raises(PipelineError, match="must be the name of a file beside it"):
        check_pipelines(checkpoint)


def test_a_registered_step_of_others_is_for_their_policies_only(checkpoint):
    class Step(ProcessorStep):
        pass

    ProcessorStepRegistry.register("someone_elses_step")(Step)
    try:
        rewrite(checkpoint, FILES[0], lambda content: content["steps"].append({"registry_name": "someone_elses_step"}))
        check_pipelines(checkpoint, ours=False)
        with pytest.raises(PipelineError, match="neither LeRobot's nor AtlasVLA's"):
            check_pipelines(checkpoint)
    finally:
        ProcessorStepRegistry.unregister("someone_elses_step")


def test_a_checkpoint_saved_before_the_step_had_a_name_still_loads(checkpoint):
    def older(content):
        step = content["steps"][2]
        del step["registry_name"]
        step["class"] = "lerobot_atlasvla.processor_atlasvla.SelfContainedTokenizerStep"

    rewrite(checkpoint, FILES[0], older)
    check_pipelines(checkpoint)
    # Exactly that path: a longer one is another class.
    rewrite(checkpoint, FILES[0], lambda content: content["steps"][2].update({"class": "x." + "y" * 3}))
    with pytest.raises(PipelineError, match="import path"):
        check_pipelines(checkpoint)


@pytest.mark.parametrize(
    "step",
    [
        # LeRobot's default for this one is trust_remote_code=True.
        {"registry_name": "action_tokenizer_processor", "config": {"action_tokenizer_name": "./evil"}},
        {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "someone/evil"}},
        {"registry_name": "reward_classifier_processor", "config": {"pretrained_path": "someone/evil"}},
        {"registry_name": "rename_observations_processor", "config": {"trust_remote_code": True}},
    ],
)
def test_a_step_that_reads_a_model_by_name_is_refused(checkpoint, step):
    rewrite(checkpoint, FILES[0], lambda content: content["steps"].append(step))
    with pytest.raises(PipelineError, match=step["registry_name"]):
        AtlasVLAPolicy.from_pretrained(checkpoint)


def test_another_policys_pipeline_runs_no_downloaded_code(checkpoint):
    step = {"registry_name": "action_tokenizer_processor", "config": {"action_tokenizer_name": "./evil"}}
    rewrite(checkpoint, FILES[0], lambda content: content["steps"].append(step))
    with pytest.raises(EvalError, match=r"would run downloaded code \(trust_remote_code\)"):
        read_checkpoint(checkpoint, "cpu", None)
    rewrite(checkpoint, FILES[0], lambda content: content["steps"][-1]["config"].update(trust_remote_code=False))
    check_pipelines(checkpoint, ours=False)


def test_the_pipelines_of_an_adapter_are_read_first_too(checkpoint, attack):
    path, ran = attack
    rewrite(checkpoint, FILES[0], lambda content: content["steps"].append({"class": path, "config": {}}))
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.use_peft, config.pretrained_path = True, checkpoint
    with pytest.raises(PipelineError, match="import path"):
        AtlasVLAPolicy.from_pretrained("atlasvla:from-config", config=config)
    assert not ran()


def test_a_checkpoints_tokenizer_is_data_and_chooses_no_files(saved, tmp_path):
    """transformers takes any argument; only the special tokens are handed on."""
    step = make_atlasvla_pre_post_processors(PreTrainedConfig.from_pretrained(saved))[0].steps[2]
    ((key, tensor),) = step.state_dict().items()
    blob = json.loads(tensor.numpy().tobytes())
    blob["special_tokens"] |= {"tokenizer_file": str(tmp_path / "x"), "chat_template": "x", "bos_token": {"a": 1}}
    step.load_state_dict({key: torch.frombuffer(bytearray(json.dumps(blob).encode()), dtype=torch.uint8)})
    assert step.input_tokenizer.pad_token == "<pad>"
    assert step.input_tokenizer.chat_template is None
    with pytest.raises(ValueError, match="The checkpoint's tokenizer can't be read"):
        step.load_state_dict({key: torch.zeros(3, dtype=torch.uint8)})


@pytest.mark.parametrize("known", ["absent", "offline", "local only", ""])
def test_a_pipeline_that_the_hub_cannot_be_asked_for_is_not_taken_for_absent(monkeypatch, tmp_path, known):
    """The network may be back a moment later, when LeRobot reads it."""

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("connection refused")

    monkeypatch.setattr(files, "hf_hub_download", unreachable)
    monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", known == "offline")
    if known == "absent":
        snapshot = tmp_path / "models--someone--policy"
        for name in FILES:
            (snapshot / ".no_exist/abc").mkdir(parents=True, exist_ok=True)
            (snapshot / ".no_exist/abc" / name).touch()
        (snapshot / "refs").mkdir()
        (snapshot / "refs/main").write_text("abc")
    if known:
        check_pipelines("someone/policy", cache_dir=tmp_path, local_files_only=known == "local only")
    else:
        with pytest.raises(PipelineError, match=f"someone/policy may have a {FILES[0]}, which must be read before"):
            check_pipelines("someone/policy", cache_dir=tmp_path)
