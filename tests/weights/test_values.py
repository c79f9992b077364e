"""Weights that are not finite or of another kind are refused by name, from a checkpoint and from a source."""

import math

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights.download import WeightsError
from tests.helpers.released import WEIGHTS, change_file, released_config, released_policy, save_checkpoint, write_all

NAME = "model.decoder.norm.weight"
CHANGES = [
    (lambda t: t.flatten()[0].fill_(math.nan), "not finite"),
    (lambda t: t.flatten()[-1].fill_(-math.inf), "not finite"),
    (lambda t: t.double() * 1e300, "not finite"),
    (lambda t: t.to(torch.int32), "torch.int32 instead of torch.float32"),
    (lambda t: t > 0, "torch.bool instead of torch.float32"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("released"))


def changing(name, change):
    """Change one tensor, in place or by what ``change`` returns."""

    def changed(tensors) -> None:
        tensor = tensors[name].float()
        result = change(tensor)
        tensors[name] = result.contiguous() if result.shape == tensor.shape else tensor

    return changed


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_a_checkpoint_is_refused_and_the_tensor_named(tmp_path, change, problem):
    save_checkpoint(tmp_path)
    change_file(tmp_path / WEIGHTS, changing(NAME, change))
    with pytest.raises(WeightsError, match=rf"{NAME}") as error:
        AtlasVLAPolicy.from_pretrained(tmp_path)
    assert problem in str(error.value)


@pytest.mark.parametrize(("change", "problem"), CHANGES)
@pytest.mark.parametrize(
    ("part", "name", "flag"),
    [
        ("vggt", "aggregator.frame_blocks.0.norm1.bias", "--policy.vggt_model"),
        ("qwen3", "model.norm.weight", "--policy.language_model"),
    ],
)
def test_a_source_is_refused_and_the_tensor_named(tmp_path, part, name, flag, change, problem):
    write_all(tmp_path)
    change_file(tmp_path / part / WEIGHTS, changing(name, change))
    with pytest.raises(WeightsError) as error:
        AtlasVLAPolicy(released_config(tmp_path))
    assert name.split(".", 1)[1] in str(error.value)
    assert problem.split(" instead")[0] in str(error.value)
    assert flag in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_read(tmp_path, dtype):
    save_checkpoint(tmp_path)
    change_file(tmp_path / WEIGHTS, changing(NAME, lambda t: t.to(dtype)))
    assert AtlasVLAPolicy.from_pretrained(tmp_path).model.decoder.norm.weight.dtype == torch.float32


def test_weights_that_are_not_finite_are_not_saved(root, tmp_path):
    """What a step with an infinite gradient leaves; the checkpoint before it stays."""
    policy = released_policy(root)
    policy.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    policy.model.decoder.norm.weight.data[0] = math.nan
    with pytest.raises(WeightsError, match=rf"not written.*{NAME}.*--policy\.optimizer_lr"):
        policy.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
