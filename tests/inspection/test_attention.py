"""The recorded attention is the attention that the model used, and each number sits on its own patch and view."""

import numpy as np
import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.inspection.attention import AttentionRecorder, attention_weights, draw_attention
from lerobot_atlasvla.model.layers import CrossAttention
from lerobot_atlasvla.model.types import TokenGroup
from tests.conftest import IMAGE, WRIST
from tests.helpers import released

# Not square, so that swapped rows and columns show.
ROWS, COLUMNS = 4, 6
WIDE = {"image_size": (8 * ROWS, 8 * COLUMNS)}


def make_policy(**overrides) -> AtlasVLAPolicy:
    """Two decoder layers with sharp attention: at its initial size it is nearly the same for all patches."""
    policy = released.tiny_policy(**(WIDE | {"decoder_num_layers": 2} | overrides))
    with torch.no_grad():
        for block in policy.model.decoder.blocks:
            block.geometry_attention.query.weight *= 20
    return policy


def record(policy, batch):
    with AttentionRecorder(policy) as recorder:
        policy.predict_action_chunk(batch)
    (chunk,) = recorder.chunks
    return chunk


def output_from(weights_BNQS: torch.Tensor, attention: CrossAttention, group: TokenGroup) -> torch.Tensor:
    """The layer's output as its equation says: weights times values, projected."""
    _, v_BSD = attention.key_value(group.tokens_BSD).chunk(2, dim=-1)
    v_BNSK = v_BSD.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    return attention.proj((weights_BNQS @ v_BNSK).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("masked", [False, True])
def test_weights_are_those_that_the_layer_multiplies_its_values_with(masked):
    torch.manual_seed(0)
    attention = CrossAttention(24, 3)
    x = 5 * torch.randn(2, 5, 24)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3]) if masked else None
    group = TokenGroup(5 * torch.randn(2, 7, 24), mask)
    weights = attention_weights(attention, x, group)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(output_from(weights, attention, group), attention(x, group), rtol=0, atol=1e-5)
    if masked:
        assert weights[1, ..., 4:].max() == 0


def test_a_decoder_that_sees_landmarks_only_has_no_patches_to_look_at():
    policy = released.tiny_policy(query_conditioning="only_landmarks")
    with pytest.raises(ValueError, match=r"landmarks and no image patches.*only_landmarks"):
        AttentionRecorder(policy)


@pytest.mark.parametrize(
    ("fusion", "conditioning"),
    [("late", "keypoints"), ("late", "landmarks"), ("late", "none"), ("early", "keypoints"), ("early", "none")],
)
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_recorded_is_what_moved_the_queries(fusion, conditioning, head, monkeypatch):
    """The real layers' outputs, and the map put together by hand from what entered them."""
    policy = make_policy(fusion=fusion, query_conditioning=conditioning, head=head)
    batch = released.preprocessed(policy.config)
    seen = []

    def spy(self, x, group):
        out = forward(self, x, group)
        seen.append((self, x, group, out))
        return out

    forward = CrossAttention.forward
    monkeypatch.setattr(CrossAttention, "forward", spy)
    chunk = record(policy, batch)

    by_layer = []
    for block in policy.model.decoder.blocks:
        ((attention, x, group, out),) = [call for call in seen if call[0] is block.geometry_attention]
        weights = attention_weights(attention, x, group)
        torch.testing.assert_close(output_from(weights, attention, group), out, rtol=0, atol=1e-5)
        by_layer.append(weights[0].mean(dim=(0, 1)))
    expected = torch.stack(by_layer).mean(dim=0)
    camera = int(fusion == "late")
    per_view = camera + ROWS * COLUMNS
    assert len(expected) == 2 * per_view
    assert chunk.views == (IMAGE, WRIST)
    assert chunk.attention_VHW.shape == (2, ROWS, COLUMNS)
    assert chunk.attention_VHW.dtype == np.float32
    for view in range(2):
        for row in range(ROWS):
            for column in range(COLUMNS):
                token = view * per_view + camera + row * COLUMNS + column
                assert chunk.attention_VHW[view, row, column] == pytest.approx(expected[token].item(), abs=1e-6)
    assert chunk.share["patches"] == pytest.approx(chunk.attention_VHW.sum(), abs=1e-6)
    assert sum(chunk.share.values()) == pytest.approx(1, abs=1e-5)
    assert ("camera" in chunk.share) == (fusion == "late")
    assert chunk.attention_VHW.std() > 1e-4, "too even for the tolerance to show a mistake"


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("order", [(IMAGE, WRIST), (WRIST, IMAGE)])
@pytest.mark.parametrize(("key", "row", "column"), [(IMAGE, 0, 5), (IMAGE, 3, 1), (WRIST, 2, 0)])
def test_attention_peaks_at_the_patch_that_shines(fusion, order, key, row, column):
    """Queries made to look for white, in views that are black but for one patch."""
    policy = make_policy(fusion=fusion, views=order, decoder_num_layers=1, vggt_patch_embed="conv")
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            # VGGT's blocks pass tokens on as they are, so that each patch says only what it shows.
            if name.endswith("gamma") or "view_embed" in name:
                parameter.zero_()
    batch = released.preprocessed(policy.config, "put")

    def views(image, wrist):
        return batch | {IMAGE: image, WRIST: wrist}

    black = torch.zeros(1, 3, 8 * ROWS, 8 * COLUMNS)
    attention = policy.model.decoder.blocks[0].geometry_attention
    keys = []
    for image in (black, black + 1):
        prefix = released.prefix_of(policy, views(image, image))
        keys.append(attention.key_value(prefix.geometry.tokens_BSD[0, -1]).chunk(2)[0])
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.copy_(20 * (keys[1] - keys[0]))
    shining = black.clone()
    shining[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    chunk = record(policy, views(shining, black) if key == IMAGE else views(black, shining))
    assert chunk.views == order
    peak = np.unravel_index(chunk.attention_VHW.argmax(), chunk.attention_VHW.shape)
    assert peak == (order.index(key), row, column)
    assert chunk.attention_VHW.max() > 3 * np.median(chunk.attention_VHW)


def test_an_absent_camera_has_no_map_and_the_others_keep_their_names():
    empty = "observation.images.empty_camera_0"
    policy = make_policy(empty_cameras=1, views=(empty, WRIST, IMAGE))
    batch = released.preprocessed(policy.config)
    chunk = record(policy, batch)
    assert chunk.views == (WRIST, IMAGE)
    assert chunk.attention_VHW.shape == (2, ROWS, COLUMNS)
    there = record(policy, batch | {empty: batch[IMAGE]})
    assert there.views == (empty, WRIST, IMAGE)
    assert there.attention_VHW.shape == (3, ROWS, COLUMNS)


def test_the_first_sample_alone_is_recorded():
    policy = make_policy()
    batch = released.preprocessed(policy.config)
    other = batch | {key: batch[key].flip(0) for key in (IMAGE, WRIST, "observation.state")}
    first = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    of_three = record(policy, batch).attention_VHW
    np.testing.assert_allclose(of_three, record(policy, first).attention_VHW, atol=1e-6)
    assert np.abs(of_three - record(policy, other).attention_VHW).max() > 1e-4


def test_one_entry_per_forward_pass_and_none_outside():
    policy = make_policy()
    batch = released.preprocessed(policy.config)
    before = policy.predict_action_chunk(batch)
    recorder = AttentionRecorder(policy)
    with recorder:
        for _ in range(policy.config.n_action_steps + 1):
            inside = policy.select_action(batch)
        assert len(recorder.chunks) == 2
        recorder.clear()
        assert recorder.chunks == []
        policy(batch)[0].backward()
        assert len(recorder.chunks) == 1
    policy.predict_action_chunk(batch)
    assert len(recorder.chunks) == 1
    # A pass knows nothing of the one before it.
    other = released.preprocessed(policy.config, "put", seed=5)
    with recorder:
        policy.predict_action_chunk(other)
    np.testing.assert_allclose(recorder.chunks[1].attention_VHW, record(policy, other).attention_VHW, atol=1e-7)
    torch.testing.assert_close(inside, before[:, 0], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in policy.modules())


def test_a_compiled_policy_is_recorded_and_compiled_again_afterward():
    plain, compiled = make_policy(), make_policy()
    calls = []

    def count(graph, example_inputs):
        def run(*arguments):
            calls.append(graph)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    compiled.model.compile(backend=count)
    batch = released.preprocessed(plain.config)
    compiled.predict_action_chunk(batch)
    assert calls
    calls.clear()
    np.testing.assert_allclose(record(compiled, batch).attention_VHW, record(plain, batch).attention_VHW, atol=1e-6)
    assert not calls
    compiled.predict_action_chunk(batch)
    assert calls
    torch._dynamo.reset()


def test_a_policy_with_an_adapter(tmp_path):
    pytest.importorskip("peft")
    root = released.write_all(tmp_path)
    policy = released.released_policy(root)
    released.open_gates(policy)
    batch = released.preprocessed(policy.config)
    expected = record(policy, batch).attention_VHW
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})
    wrapped.eval()
    np.testing.assert_allclose(record(wrapped, batch).attention_VHW, expected, atol=1e-6)


def test_a_policy_of_another_type_is_refused():
    class Other(torch.nn.Module):
        name = "act"

    with pytest.raises(ValueError, match=r"type atlasvla .* type act\."):
        AttentionRecorder(Other())


def test_drawing_marks_the_place_and_leaves_the_rest():
    image = np.full((48, 64, 3), 100, np.uint8)
    attention = np.zeros((3, 4), np.float32)
    attention[0, 3] = 0.2
    drawn = draw_attention(image, attention)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    change = np.abs(drawn.astype(int) - image).sum(axis=2)
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert (y // 16, x // 16) == (0, 3)
    assert not change[32:].any()
    assert not change[:, :32].any()
    # Half way to its neighbor, an upsampled map has neither value.
    assert 0 < change[8, 48] < change[8, 56]
    assert (image == 100).all()


def test_maps_are_scaled_to_their_own_maximum_or_the_one_given():
    image = np.full((16, 16, 3), 100, np.uint8)
    attention = np.array([[0.1, 0.02], [0.0, 0.05]], np.float32)
    np.testing.assert_array_equal(draw_attention(image, attention), draw_attention(image, 5 * attention))
    np.testing.assert_array_equal(draw_attention(image, attention), draw_attention(image, attention, maximum=0.1))
    strong, weak = (
        np.abs(draw_attention(image, attention, maximum=maximum).astype(int) - 100).sum() for maximum in (0.1, 1.0)
    )
    assert weak < strong / 2
    np.testing.assert_array_equal(draw_attention(image, 0 * attention), image)


@pytest.mark.parametrize(
    ("image", "attention", "maximum", "needle"),
    [
        (np.zeros((8, 8, 3), np.float32), np.ones((2, 2)), None, "uint8 RGB .* float32"),
        (np.zeros((3, 8, 8), np.uint8), np.ones((2, 2)), None, r"\(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((2, 2, 2)), None, r"shape \(2, 2, 2\)"),
        (np.zeros((8, 8, 3), np.uint8), -np.ones((2, 2)), None, r"values -1\.0"),
        (np.zeros((8, 8, 3), np.uint8), np.full((2, 2), np.nan), None, "nan"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((2, 2)), 0.0, "maximum must be positive, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, attention, maximum, needle):
    with pytest.raises(ValueError, match=needle):
        draw_attention(image, attention, maximum=maximum)
