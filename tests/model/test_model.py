"""The network: shapes, masks, gradients, and that it learns."""

import pytest
import torch

from lerobot_atlasvla.inputs import random_shift
from lerobot_atlasvla.model.action_heads import L1Head
from lerobot_atlasvla.model.geometry.vggt import Aggregator
from lerobot_atlasvla.model.layers import apply_rope, rope_2d_tables
from lerobot_atlasvla.model.sizes.architecture import PATCH_EMBEDDERS
from lerobot_atlasvla.weights.vggt_state_dict import from_vggt, to_vggt


def tiny_aggregator(**overrides) -> Aggregator:
    torch.manual_seed(0)
    values = {
        "patch_embed": "conv",
        "patch_size": 4,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "layer_scale_init": 1.0,
    }
    return Aggregator(**(values | overrides)).eval()


def test_aggregator_returns_only_the_layers_asked_for():
    aggregator = tiny_aggregator()
    images = torch.rand(2, 3, 3, 8, 12)
    everything = aggregator(images)
    last = aggregator(images, output_layers=(1,))
    assert [tuple(t.shape) for t in everything.layers] == [(2, 3, 5 + 6, 32)] * 2
    assert everything.patch_start_idx == 5
    assert len(last.layers) == 1
    torch.testing.assert_close(last.layers[0], everything.layers[1])


def test_other_views_are_interchangeable_but_the_first_is_not():
    """VGGT knows no view index: swapping views 1 and 2 swaps their tokens; swapping 0 and 1 changes them."""
    aggregator = tiny_aggregator()
    with torch.no_grad():
        aggregator.camera_token.normal_()
        aggregator.register_token.normal_()
    images = torch.rand(1, 3, 3, 8, 8)
    tokens = aggregator(images).layers[-1]
    swapped = aggregator(images[:, [0, 2, 1]]).layers[-1]
    torch.testing.assert_close(swapped[:, [0, 2, 1]], tokens, rtol=1e-4, atol=1e-5)
    first_moved = aggregator(images[:, [1, 0, 2]]).layers[-1]
    assert (first_moved[:, [1, 0, 2]] - tokens).abs().max() > 1e-2


@pytest.mark.parametrize(("shape", "message"), [((1, 1, 1, 8, 8), "RGB"), ((1, 1, 3, 8, 9), "nearest allowed size is")])
def test_aggregator_refuses_images_it_cannot_read(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_aggregator()(torch.rand(shape))


def test_aggregator_refuses_a_layer_that_does_not_exist():
    with pytest.raises(ValueError, match=r"0 \.\. 1"):
        tiny_aggregator()(torch.rand(1, 1, 3, 8, 8), output_layers=(2,))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_embed": "resnet"}, ", ".join(PATCH_EMBEDDERS)),
        ({"patch_embed": "dinov2_vits14_reg"}, "384 wide but the aggregator is 16 wide"),
        ({"patch_embed": "conv_stem", "patch_size": 6, "grid": (2, 2)}, "power of two"),
    ],
)
def test_aggregator_refuses_impossible_sizes(overrides, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        tiny_aggregator(**overrides)


def test_rope_depends_on_relative_positions_only():
    """q.k after rotation is a function of the offset in y and in x, and a token at (0, 0) is left alone."""
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(a: tuple[int, int], b: tuple[int, int]) -> torch.Tensor:
        at = lambda x, p: apply_rope(x, rope_2d_tables(torch.tensor([p]), 8))  # noqa: E731
        return (at(q, a) * at(k, b)).sum()

    torch.testing.assert_close(score((1, 2), (3, 7)), score((4, 6), (6, 11)), rtol=1e-4, atol=1e-5)
    assert (score((1, 2), (3, 7)) - score((1, 2), (3, 8))).abs() > 1e-4
    assert (score((1, 2), (3, 7)) - score((1, 2), (4, 7))).abs() > 1e-4
    torch.testing.assert_close(apply_rope(q, rope_2d_tables(torch.zeros(1, 2, dtype=torch.long), 8)), q)


def test_key_map_round_trips_every_dinov2_name():
    aggregator = Aggregator(
        patch_embed="dinov2_vits14_reg", patch_size=14, embed_dim=384, depth=1, num_heads=6, img_size=28
    )
    state = aggregator.state_dict()
    upstream = to_vggt(state)
    # 12 blocks x 14 tensors + class, mask, registers, position, patch weight and bias, norm weight and bias.
    assert sum(name.startswith("patch_embed.") for name in upstream) == 12 * 14 + 8
    assert upstream["patch_embed.blocks.3.attn.qkv.weight"].shape == (3 * 384, 384)
    back = from_vggt(upstream)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_key_map_names_what_it_does_not_know():
    with pytest.raises(KeyError, match=r"patch_embed\.blocks\.0\.attn\.bias_mask"):
        from_vggt({"patch_embed.blocks.0.attn.bias_mask": torch.zeros(1)})


def test_padded_actions_never_count():
    head = L1Head(4, 2)
    decoded, actions = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    loss = head.loss(decoded, actions, valid)
    poisoned = head.loss(decoded, actions.masked_fill(~valid[..., None], float("nan")), valid)
    torch.testing.assert_close(poisoned, loss)
    error = (head(decoded) - actions).abs().mean(-1)
    torch.testing.assert_close(loss, torch.stack([error[0].mean(), error[1, :2].mean(), error[2, 0]]))


def test_random_shift_moves_whole_pixels_and_repeats_the_edge():
    torch.manual_seed(0)
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 3, 8, 8)
    shifted = random_shift(image, 2)
    assert shifted.shape == image.shape
    steps = (shifted[:, 0, 4, 4] - image[:, 0, 4, 4]).long()
    # Rows differ by 8, columns by 1: every shift of -2 .. 2 each way, and no other.
    assert {int(s) for s in steps} == {8 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)}
    assert shifted.min() >= 0
    assert shifted.max() <= 63
    torch.testing.assert_close(random_shift(image, 0), image)
