"""Images reach the actions through the frame and global blocks, and in no other way; a blind policy has no images."""

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.model.geometry.vggt import AggregatorOutput
from lerobot_atlasvla.model.vision import PatchConv2d
from lerobot_atlasvla.policy.checks.config import ConfigError
from lerobot_atlasvla.weights.download import WeightsError
from tests.conftest import IMAGE, WRIST, dataset_stats, raw_batch, tiny_config
from tests.helpers.released import released_policy

KINDS = [
    {},
    {"query_conditioning": "none"},
    {"head": "flow", "num_action_queries": 3},
    {"vision": "patch", "vision_patch_size": 8, "vision_patch_dim": 24},
    {"fusion": "early"},
    {"fusion": "early", "query_conditioning": "none"},
    {"fusion": "early", "vision": "patch", "vision_patch_size": 8, "vision_patch_dim": 24},
]


def make(**overrides) -> tuple[AtlasVLAPolicy, dict, dict]:
    """A policy, and two batches that differ in their images only."""
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(**overrides))
    for name, parameter in policy.named_parameters():
        if ".modulation." in name:  # zero-initialized: it would hide everything before the flow head
            torch.nn.init.normal_(parameter, std=0.2)
    preprocessor, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    batch = preprocessor(raw_batch())
    other = batch | {key: batch[key].flip(-1) for key in (IMAGE, WRIST)}
    return policy, batch, other


def act(policy: AtlasVLAPolicy, batch: dict) -> torch.Tensor:
    noise = torch.zeros(len(batch[IMAGE]), policy.config.chunk_size, 7)
    return policy.predict_action_chunk(batch, noise)


@pytest.mark.parametrize("overrides", KINDS)
def test_nothing_visual_goes_past_the_geometry_blocks(overrides, monkeypatch):
    policy, batch, other = make(**overrides)
    assert (act(policy, batch) - act(policy, other)).abs().max() > 1e-5
    attend = policy.model.aggregator.attend

    def forget(*args, **kwargs) -> AggregatorOutput:
        output = attend(*args, **kwargs)
        return output._replace(layers=[torch.full_like(layer, 0.1) for layer in output.layers])

    monkeypatch.setattr(policy.model.aggregator, "attend", forget)
    assert torch.equal(act(policy, batch), act(policy, other))


@pytest.mark.parametrize("overrides", KINDS)
def test_the_geometry_blocks_act_from_the_first_step(overrides):
    policy, batch, _ = make(**overrides)
    before = act(policy, batch)
    generator = torch.Generator().manual_seed(1)
    for blocks in (policy.model.aggregator.frame_blocks, policy.model.aggregator.global_blocks):
        for parameter in blocks.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(noise * parameter.data.std())
    assert (act(policy, batch) - before).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_blocks_can_be_frozen_while_what_is_before_them_learns(fusion):
    policy, batch, _ = make(vggt_blocks="frozen", fusion=fusion)
    policy.train()(batch)[0].backward()
    blocks = {name for name, _ in policy.named_parameters() if "_blocks." in name}
    learning = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert blocks
    assert not blocks & learning
    assert any("patch_embed" in name for name in learning)


@pytest.mark.parametrize("overrides", KINDS)
def test_without_blocks_the_patch_tokens_pass_unchanged(overrides, tmp_path):
    policy, batch, other = make(vggt_blocks="removed", **overrides)
    assert not [name for name, _ in policy.named_parameters() if "_blocks." in name]
    assert (act(policy, batch) - act(policy, other)).abs().max() > 1e-5
    patches_BVPC = torch.rand(2, 2, 16, 32)
    for layer in policy.model.aggregator.attend(patches_BVPC, (4, 4), (0, 1)).layers:
        specials = policy.model.aggregator.patch_start_idx
        assert torch.equal(layer[:, :, specials:], torch.cat((patches_BVPC, patches_BVPC), dim=-1))
    policy.save_pretrained(tmp_path)
    assert torch.equal(act(AtlasVLAPolicy.from_pretrained(tmp_path), batch), act(policy, batch))


def test_a_pretrained_vggt_is_not_loaded_to_be_removed():
    with pytest.raises(ConfigError, match=r"vggt_blocks='removed'.*--policy\.vggt_blocks=normal"):
        tiny_config(vggt_blocks="removed", vggt_init="pretrained", vggt_patch_embed="conv")


@pytest.mark.parametrize("overrides", [{}, {"query_conditioning": "none"}, {"fusion": "early"}, {"head": "flow"}])
def test_a_blind_policy_needs_no_images_and_has_no_part_for_them(overrides):
    policy, batch, other = make(views=("none",), **overrides)
    assert torch.equal(act(policy, batch), act(policy, other))
    assert policy.config.image_features == {}
    assert set(policy.model.backbones()) == {"language"}
    assert not [name for name, _ in policy.named_parameters() if "aggregator" in name or "vision" in name]
    without = {key: value for key, value in batch.items() if key not in (IMAGE, WRIST)}
    noise = torch.zeros(3, policy.config.chunk_size, 7)
    assert torch.equal(policy.predict_action_chunk(without, noise), act(policy, batch))
    loss, _ = policy.train()(without)
    loss.backward()
    silent = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


def test_a_blind_policy_is_saved_and_loaded(tmp_path):
    policy, batch, _ = make(views=("none",))
    policy.save_pretrained(tmp_path)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path)
    assert loaded.config.is_blind
    assert torch.equal(act(loaded, batch), act(policy, batch))


@pytest.mark.parametrize("view", [IMAGE, WRIST])
def test_no_pixel_of_another_camera_enters_the_network(view):
    policy, batch, _ = make(views=(view,))
    (hidden,) = {IMAGE, WRIST} - {view}
    changed = batch | {hidden: torch.full_like(batch[hidden], float("nan"))}
    assert list(policy.config.image_features) == [view]
    assert torch.equal(act(policy, changed), act(policy, batch))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"views": ("none", IMAGE)}, ["blind", "none", IMAGE, "--policy.views"]),
        ({"views": ("none",), "empty_cameras": 1}, ["blind", "empty_cameras 1", "--policy.empty_cameras=0"]),
        ({"views": ("none",), "feature_cache": "x", "freeze_vggt": True}, ["blind", "none", "--policy.feature_cache"]),
    ],
)
def test_a_blind_policy_is_not_asked_for_views(overrides, words):
    with pytest.raises(ConfigError) as error:
        tiny_config(**overrides)
    for word in words:
        assert word in str(error.value)


def test_the_command_line_knows_the_word_none():
    import draccus

    from lerobot_atlasvla import AtlasVLAConfig

    config = draccus.parse(AtlasVLAConfig, args=["--views=none", "--device=cpu"])
    assert config.views == ("none",)
    assert config.is_blind


def test_a_checkpoint_of_the_first_wiring_is_refused_with_its_commit(tmp_path):
    from safetensors.torch import load_file, save_file

    policy, _, _ = make()
    policy.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file) | {"model.decoder.blocks.0.geometry_gate": torch.zeros(1)}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="b6cd926"):
        AtlasVLAPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [(28, 42), (31, 29)])
def test_patches_as_a_matrix_product_are_the_convolution(size):
    torch.manual_seed(0)
    convolution, product = torch.nn.Conv2d(3, 5, 14, stride=14).double(), PatchConv2d(3, 5, 14).double()
    product.load_state_dict(convolution.state_dict())
    results = []
    for layer in (convolution, product):
        images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        tokens = layer(images.requires_grad_())
        tokens.square().sum().backward()
        results.append((tokens, images.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("vision", ["vggt", "dinov2", "da3", "patch"])
def test_every_tower_cuts_its_patches_by_a_matrix_product(root, vision):
    policy = released_policy(root, vision=vision)
    layers = [layer for layer in policy.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [type(layer) for layer in layers] == [PatchConv2d]
