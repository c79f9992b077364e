"""A checkpoint's pipelines must not choose which code runs when the checkpoint is loaded."""

import json
import sys

import pytest
from lerobot.processor import ProcessorStep, ProcessorStepRegistry

from eval.common.errors import EvalError
from eval.rollout.checkpoint import read_checkpoint
from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.pipeline_files import FILES, PipelineError, check_pipelines
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
