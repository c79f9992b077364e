"""A checkpoint's pipelines must do what its config.json says, with statistics that are finite, or it is refused."""

import json
import math

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.pipelines.files import FILES, PipelineError
from lerobot_atlasvla.policy.pipelines.saved import check_saved_pipelines
from tests.conftest import STATE
from tests.helpers.released import change_file, save_checkpoint

PRE, POST = FILES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    check_saved_pipelines(tmp_path)
    return tmp_path


def rewrite(folder, name, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content["steps"])
    (folder / name).write_text(json.dumps(content))


def state_file(folder, kind):
    (file,) = folder.glob(f"*_{kind}.safetensors")
    return file


@pytest.mark.parametrize("kind", ["unnormalizer_processor", "4_normalizer_processor"])
@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (lambda t: t["action.mean"][2:3].fill_(math.nan), r"action\.mean that is not finite"),
        (lambda t: t["action.std"][0:1].fill_(math.inf), r"action\.std that is not finite"),
        (lambda t: t["action.std"].mul_(-1), "values in std that are negative"),
        (lambda t: t["action.std"].mul_(1e30), "beyond 1e"),
        (lambda t: t.pop("action.std"), "action lack std"),
        (lambda t: t.clear(), "action lack mean, std|observation.state lack mean, std|damaged"),
        (lambda t: t.update({"action.mean": torch.zeros(3)}), "are for .* numbers, but the data have 7"),
        (lambda t: t.update({"action.mean": torch.zeros(7, dtype=torch.int32)}), r"action\.mean that is not finite"),
    ],
)
def test_statistics_are_checked_before_anything_acts_on_them(checkpoint, kind, change, needle):
    change_file(state_file(checkpoint, kind), change)
    with pytest.raises(PipelineError, match=needle):
        AtlasVLAPolicy.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["policy_preprocessor_step_4_normalizer_processor.safetensors"])
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:200])])
def test_a_state_that_is_not_there_or_cut_short_is_named(checkpoint, name, damage):
    damage(checkpoint / name)
    with pytest.raises(PipelineError, match=rf"{name}.*(not there|damaged or incomplete)"):
        check_saved_pipelines(checkpoint)


@pytest.mark.parametrize(
    ("name", "change", "needle"),
    [
        (PRE, lambda steps: steps.pop(4), "'normalizer_processor' 0 times"),
        (PRE, lambda steps: steps.append(steps[4]), "'normalizer_processor' 2 times"),
        (PRE, lambda steps: steps.pop(2), "tokenizer' 0 times"),
        (POST, lambda steps: steps.pop(0), "'unnormalizer_processor' 0 times"),
        (PRE, lambda steps: steps[4].pop("state_file"), "lack mean, std"),
        (PRE, lambda steps: steps[2].pop("state_file"), "tokenizer without its state_file"),
        (PRE, lambda steps: steps[4]["config"]["norm_map"].update(STATE="IDENTITY"), "normalizes STATE by IDENTITY"),
        (POST, lambda steps: steps[0]["config"].update(norm_map={}), "normalizes STATE by IDENTITY"),
        (PRE, lambda steps: steps[4]["config"]["norm_map"].update(STATE="X"), "can't be read"),
        (PRE, lambda steps: steps[4]["config"]["features"].pop(STATE), "of shape nothing"),
        (POST, lambda steps: steps[0]["config"]["features"]["action"].update(shape=[6]), r"of shape \[6\]"),
        (PRE, lambda steps: steps[4]["config"].update(eps=math.nan), "eps = nan"),
        (PRE, lambda steps: steps[2]["config"].update(max_length=-1), "max_length = -1"),
        (PRE, lambda steps: steps[2]["config"].update(tokenizer_name="someone/else"), "tokenizer_name"),
        (PRE, lambda steps: steps[3]["config"].update(device="abacus"), "device = abacus"),
        (PRE, lambda steps: steps[1].update(config=[1]), "no dictionary"),
    ],
)
def test_a_pipeline_that_does_something_else_is_refused(checkpoint, name, change, needle):
    rewrite(checkpoint, name, change)
    with pytest.raises(PipelineError, match=needle) as error:
        check_saved_pipelines(checkpoint)
    assert name in str(error.value)


def test_a_tokenizer_for_another_language_model_is_refused(checkpoint):
    content = json.loads((checkpoint / "config.json").read_text())
    content["backbone_architectures"]["language"]["vocab_size"] = 20
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=r"tokenizer of \d+ tokens.*knows 20"):
        check_saved_pipelines(checkpoint)


def test_a_checkpoint_without_pipelines_or_statistics_is_left_to_lerobot(checkpoint):
    for name in FILES:
        rewrite(checkpoint, name, lambda steps: [s.pop("state_file", 0) for s in steps if "normalizer" in str(s)])
    for kind in ("unnormalizer_processor", "4_normalizer_processor"):
        state_file(checkpoint, kind).unlink()
    check_saved_pipelines(checkpoint)
    for name in FILES:
        (checkpoint / name).unlink()
    check_saved_pipelines(checkpoint)
