"""DA3's encoder beyond its golden outputs: what sees what, what is computed, memory and dtype."""

import copy

import pytest
import torch

from lerobot_atlasvla.model.geometry.da3 import DA3Encoder
from tests.helpers.released import released_policy

VIEWS = torch.rand(2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder() -> DA3Encoder:
    torch.manual_seed(0)
    return DA3Encoder(embed_dim=32, depth=8, num_heads=2).eval()


@pytest.mark.parametrize("layers", [(0, 5), (4, 7), (6,), (3, 4, 5, 6, 7)])
def test_only_the_layers_asked_for_come_and_no_block_after_them_runs(encoder, layers):
    everything = encoder(VIEWS).layers
    ran = []
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    output = encoder(VIEWS, layers)
    assert ran == list(range(layers[-1] + 1))
    assert output.patch_start_idx == 1
    assert [tuple(tokens.shape) for tokens in output.layers] == [(2, 3, 1 + 6, 64)] * len(layers)
    for layer, tokens in zip(layers, output.layers, strict=True):
        assert torch.equal(tokens, everything[layer]), layer


def test_views_meet_in_odd_blocks_from_the_fifth_on(encoder):
    other = VIEWS.clone()
    other[:, 2] = 1 - other[:, 2]
    with torch.no_grad():
        before, after = encoder(VIEWS).layers, encoder(other).layers
    same = [torch.equal(mine[:, 0], theirs[:, 0]) for mine, theirs in zip(before, after, strict=True)]
    assert same == [True] * 5 + [False] * 3
    # Beside the fifth block's output stands that of the fourth, which has seen one view.
    assert torch.equal(before[5][:, 0, :, :32], after[5][:, 0, :, :32])


def test_the_first_view_is_the_world_and_the_others_are_alike(encoder):
    with torch.no_grad():
        tokens = encoder(VIEWS, (7,)).layers[0]
        swapped = encoder(VIEWS[:, [0, 2, 1]], (7,)).layers[0]
        first_moved = encoder(VIEWS[:, [1, 0, 2]], (7,)).layers[0]
    torch.testing.assert_close(swapped, tokens[:, [0, 2, 1]])
    assert (first_moved - tokens[:, [1, 0, 2]]).abs().max() > 1e-3


def test_what_cannot_be_read_is_refused(encoder):
    with pytest.raises(
        ValueError, match=r"\(28, 41\) is no multiple of the patch size 14.*\(28, 42\) \(--policy.image_size\)"
    ):
        encoder(VIEWS[..., :41])
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 7"):
        encoder(VIEWS, (8,))


def test_recomputed_activations_give_the_same_gradients(encoder):
    runs = []
    encoder.blocks[5].register_forward_pre_hook(lambda *_: runs.append(1))
    gradients = []
    for recompute in (False, True):
        encoder.gradient_checkpointing = recompute
        encoder.zero_grad()
        encoder(VIEWS, (5, 7)).layers[-1].square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in encoder.named_parameters()})
    assert len(runs) == 3
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_policy_switches_that_on(root):
    assert released_policy(root, vision="da3", gradient_checkpointing=True).model.aggregator.gradient_checkpointing


def test_positions_are_interpolated_once_and_again_when_they_change(encoder, monkeypatch):
    encoder.requires_grad_(False)
    before = encoder(VIEWS, (7,)).layers[0]
    interpolated = []
    real = encoder._interpolate
    monkeypatch.setattr(encoder, "_interpolate", lambda grid: interpolated.append(grid) or real(grid))
    assert torch.equal(encoder(VIEWS, (7,)).layers[0], before)
    assert interpolated == []
    with torch.no_grad():
        encoder.pos_embed += torch.rand_like(encoder.pos_embed)
    assert not torch.equal(encoder(VIEWS, (7,)).layers[0], before)
    encoder(VIEWS[..., :28], (7,))
    assert interpolated == [(2, 3), (2, 2)]


def test_a_learning_table_gets_its_gradient(encoder):
    encoder(VIEWS, (7,)).layers[0].square().mean().backward()
    encoder(VIEWS, (7,)).layers[0].square().mean().backward()
    assert encoder.pos_embed.grad.abs().max() > 0


def test_half_precision_is_close_and_comes_out_in_it(encoder):
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    with torch.no_grad():
        exact, rounded = encoder(VIEWS, (7,)).layers[0], half(VIEWS, (7,)).layers[0]
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03
