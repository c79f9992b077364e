"""What learns and what does not: flags, gradients, graphs, dtypes."""

import itertools

import pytest
import torch

from lerobot_atlasvla.weights import backbones
from tests.helpers.released import (
    SMALL_DINOV2,
    open_gates,
    prefix_of,
    preprocessed,
    released_config,
    released_policy,
)

PARTS = ("vggt", "language", "vision_tower")
ALL = [*itertools.product(("vggt", "patch", "dinov2"), ("late", "early")), ("da3", "late")]
LEARNS_ALL = {f"freeze_{part}": False for part in (*PARTS, "da3")}


@pytest.fixture(autouse=True)
def _small_random_tower(monkeypatch):
    monkeypatch.setattr(backbones, "DINOV2_BASE", SMALL_DINOV2)


def backward(policy, batch=None) -> torch.Tensor:
    """One backward pass with open gates; noise and times are the same in every call."""
    open_gates(policy)
    policy.train()
    torch.manual_seed(1)
    loss, _ = policy(batch or preprocessed(policy.config))
    loss.backward()
    return loss.detach()


def silent(module) -> list[str]:
    """Parameters that should learn and get no gradient."""
    return [
        name
        for name, p in module.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0)
    ]


def unused(name: str) -> bool:
    """DINOv2's mask token served its own pre-training; no forward pass here uses it."""
    return name.endswith("mask_token")


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


# --- flags ---


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("init", "asked", "frozen"),
    [
        ("pretrained", None, True),
        ("pretrained", True, True),
        ("pretrained", False, False),
        ("random", None, False),
        ("random", True, True),
        ("random", False, False),
    ],
)
def test_a_part_is_frozen_as_asked_and_otherwise_if_pretrained(root, part, init, asked, frozen):
    policy = released_policy(root, vision="dinov2", **{f"{part}_init": init, f"freeze_{part}": asked})
    for mode in (True, False):
        policy.train(mode)
        for name, module in policy.model.backbones().items():
            is_frozen = frozen if name == part else True
            assert all(p.requires_grad != is_frozen for n, p in module.named_parameters() if not unused(n)), name
            assert {m.training for m in module.modules()} == {mode and not is_frozen}, name
        assert policy.model.decoder.training == mode


def test_an_adapter_inside_a_frozen_part_keeps_learning(root):
    """LoRA and its like add parameters inside a backbone; the training loop calls train() after that."""
    policy = released_policy(root)
    block = policy.model.aggregator.frame_blocks[1]
    block.attn.proj.register_parameter("lora", torch.nn.Parameter(torch.zeros(32)))
    block.attn.proj.register_forward_hook(lambda module, args, out: out + module.lora)
    backward(policy)
    assert block.attn.proj.lora.grad is not None
    assert block.attn.proj.weight.grad is None


# --- gradients ---


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_around_frozen_backbones_everything_learns(root, vision, fusion, head):
    policy = released_policy(root, vision=vision, fusion=fusion, head=head)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    backward(policy)
    assert silent(policy) == []
    for name, module in policy.model.backbones().items():
        assert all(p.grad is None for p in module.parameters()), name
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    optimizer.step()
    prefixes = ("model.aggregator.", "model.language.", "model.vision_tower.backbone.")
    for name, tensor in policy.state_dict().items():
        if name.startswith(prefixes):
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("head", ["l1", "flow"])
def test_where_nothing_is_frozen_everything_learns(root, vision, fusion, head):
    """Every trainable parameter has a use: an unused one would stop data-parallel training."""
    policy = released_policy(root, vision=vision, fusion=fusion, head=head, **LEARNS_ALL)
    backward(policy)
    assert silent(policy) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fusion", ["late", "early"])
def test_one_part_learns_between_frozen_ones(root, part, fusion):
    policy = released_policy(root, vision="dinov2", fusion=fusion, **{f"freeze_{part}": False})
    backward(policy)
    for name, module in policy.model.backbones().items():
        learns = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters()]
        assert any(learns) == (name == part), name


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_a_graph_through_a_frozen_vggt_is_built_only_where_something_before_it_learns(root, fusion):
    for vision, before_it in (("vggt", fusion == "early"), ("patch", True), ("dinov2", True)):
        policy = released_policy(root, vision=vision, fusion=fusion)
        outputs = []
        policy.model.aggregator.global_blocks[-1].register_forward_hook(lambda m, a, out, to=outputs: to.append(out))
        policy.train()
        policy(preprocessed(policy.config))
        assert [out.requires_grad for out in outputs] == [before_it], vision


@pytest.mark.parametrize("vision", ["vggt", "dinov2"])
@pytest.mark.parametrize("fusion", ["late", "early"])
def test_before_the_adapters_a_frozen_part_saves_nothing_for_the_backward_pass(root, vision, fusion):
    policy = released_policy(root, vision=vision, fusion=fusion)
    policy.train()
    model = policy.model
    saved = []
    batch = preprocessed(policy.config)
    tower = model.aggregator.patch_embed if vision == "vggt" else model.vision_tower
    outputs = []
    for module in (tower, model.language):
        module.register_forward_pre_hook(lambda m, a: saved.clear())
        module.register_forward_hook(lambda m, a, out: outputs.append(len(saved)))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        prefix_of(policy, batch)
    assert outputs == [0, 0]
    assert saved


# --- gradient checkpointing ---


@pytest.mark.parametrize(
    "overrides",
    [
        {"fusion": "early"},
        {"fusion": "early"} | LEARNS_ALL,
        {"fusion": "late"} | LEARNS_ALL,
        {"fusion": "late", "vision": "dinov2"} | LEARNS_ALL,
        {"fusion": "early", "freeze_language": False, "head": "flow"},
    ],
)
def test_gradient_checkpointing_changes_memory_and_nothing_else(root, overrides):
    plain = released_policy(root, **overrides)
    thrifty = released_policy(root, **overrides, gradient_checkpointing=True)
    batch = preprocessed(plain.config)
    stored = {}
    losses = []
    for policy in (plain, thrifty):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: to.append(t.nbytes) or t, lambda t: t):
            losses.append(backward(policy, batch))
        stored[policy] = sum(saved)
    assert torch.equal(*losses)
    expected, found = gradients(plain), gradients(thrifty)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    assert stored[thrifty] < 0.7 * stored[plain]


@pytest.mark.parametrize("part", ["vggt", "language"])
def test_gradient_checkpointing_runs_each_block_again_in_the_backward_pass(root, part):
    policy = released_policy(root, fusion="early", gradient_checkpointing=True, **LEARNS_ALL)
    blocks = {"vggt": policy.model.aggregator.frame_blocks, "language": policy.model.language.backbone.layers}[part]
    calls = []
    blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    policy.predict_action_chunk(preprocessed(policy.config))
    assert len(calls) == 1
    backward(policy)
    assert len(calls) == 3


# --- dtypes ---


@pytest.mark.parametrize("init", ["pretrained", "random"])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parts_are_bfloat16_and_what_learns_is_float32(root, init, frozen):
    overrides = {f"{part}_init": init for part in PARTS} | {f"freeze_{part}": frozen for part in PARTS}
    policy = released_policy(root, vision="dinov2", backbone_dtype="bfloat16", **overrides)
    for name, module in policy.model.backbones().items():
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16 if frozen else torch.float32}, name
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}


def test_on_a_cpu_frozen_parts_are_float32_by_default(root):
    assert {p.dtype for p in released_policy(root).parameters()} == {torch.float32}


@pytest.mark.parametrize("cast", [False, True])
def test_rotary_frequencies_stay_float32_and_exact(root, cast):
    expected = released_policy(root).model.language.backbone.rotary_emb.inv_freq.clone()
    policy = released_policy(root, backbone_dtype="bfloat16")
    if cast:
        policy.to(torch.bfloat16)
    frequencies = policy.model.language.backbone.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, expected)
    assert len(frequencies) == 4


@pytest.mark.parametrize(("vision", "fusion"), ALL)
@pytest.mark.parametrize("head", ["l1", "flow"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_backbones_give_nearly_the_same_actions_and_gradients(root, vision, fusion, head, dtype):
    choices = {"vision": vision, "fusion": fusion, "head": head}
    exact = released_policy(root, **choices)
    rounded = released_policy(root, **choices, backbone_dtype="bfloat16", dtype=dtype)
    batch = preprocessed(exact.config)
    for policy in (exact, rounded):
        open_gates(policy)
    noise = torch.randn(3, 10, 7, generator=torch.Generator().manual_seed(0))
    expected = exact.predict_action_chunk(batch, noise=noise)
    found = rounded.predict_action_chunk(batch, noise=noise)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < (0.01 if dtype == "float32" else 0.05)
    backward(exact, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        backward(rounded, batch)
    assert silent(rounded) == []
    assert gradients(rounded).keys() == gradients(exact).keys()
    assert {g.dtype for g in gradients(rounded).values()} == {torch.float32}


@pytest.mark.parametrize("backbone_dtype", ["float32", "bfloat16"])
def test_autocast_around_a_frozen_part_changes_nothing_in_it(root, backbone_dtype):
    policy = released_policy(root, backbone_dtype=backbone_dtype)
    batch = preprocessed(released_config(root))
    outputs = []
    model = policy.model
    for module in (model.aggregator.patch_embed, model.aggregator.global_blocks[-1], model.language):
        module.register_forward_hook(lambda m, a, out: outputs.append(getattr(out, "tokens_BSD", out)))
    prefix_of(policy, batch)
    model.language._cache.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prefix_of(policy, batch)
    for plain, autocast in zip(outputs[:3], outputs[3:], strict=True):
        assert plain.dtype == autocast.dtype
        assert torch.equal(plain, autocast)
