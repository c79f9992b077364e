"""Adapters: what is trained, what a checkpoint holds, how the base comes back, and merging."""

import re

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.weights.download import WeightsError
from lerobot_atlasvla.weights.peft import FROM_CONFIG, default_targets
from tests.helpers.released import (
    WEIGHTS,
    change_file,
    open_gates,
    preprocessed,
    released_policy,
    write_vggt,
)

LORA = {"method_type": "LORA", "r": 4}
OTHER_TASK = "open the drawer"

# Counts steps, whatever learns.
STEPS = "randomness.state"


def wrapped(policy, **overrides) -> PeftModel:
    return policy.wrap_with_peft(peft_cli_overrides=LORA | overrides)


def train_a_little(model, batch, *, steps: int = 2) -> None:
    """Big steps from open gates, so that every trained layer shows in the actions."""
    open_gates(model.base_model.model)
    optimizer = torch.optim.AdamW(model.get_optim_params(), lr=0.05)
    model.train()
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.config.dtype == "bfloat16"):
            loss, _ = model.forward(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def chunk(policy, batch) -> torch.Tensor:
    torch.manual_seed(3)
    return policy.predict_action_chunk(batch)


def save(model: PeftModel, folder):
    """As LeRobot's save_checkpoint does."""
    model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder


def load(folder, *, is_trainable: bool = False) -> PeftModel:
    """As LeRobot's rollout (and, trainable, make_policy) does."""
    config = PreTrainedConfig.from_pretrained(folder)
    assert config.use_peft
    adapter = PeftConfig.from_pretrained(folder)
    base = AtlasVLAPolicy.from_pretrained(adapter.base_model_name_or_path, config=config, revision=adapter.revision)
    return PeftModel.from_pretrained(base, folder, config=adapter, is_trainable=is_trainable)


# --- what is trained ---


def test_the_last_third_of_the_blocks_that_run_is_adapted(root):
    model = released_policy(root).model
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

    def adapted(**settings) -> set[int]:
        pattern = default_targets(AtlasVLAConfig(device="cpu", **settings), model)["target_modules"]
        names = [f"model.aggregator.{kind}_blocks.{i}" for kind in ("frame", "global") for i in range(24)]
        found = {name: [bool(re.fullmatch(pattern, f"{name}.{layer}")) for layer in layers] for name in names}
        assert all(len(set(flags)) == 1 for flags in found.values())
        assert not re.fullmatch(pattern, "model.aggregator.patch_embed.blocks.20.attn.qkv")
        return {int(name.rsplit(".", 1)[1]) for name, flags in found.items() if flags[0]}

    assert adapted() == set(range(16, 24))
    assert adapted(vggt_output_layers=(5, 11)) == set(range(8, 12))
    assert adapted(vggt_output_layers=(0,)) == {0}


def test_of_da3_the_last_third_is_adapted(root):
    pattern = default_targets(
        AtlasVLAConfig(device="cpu", vision="da3", da3_output_layers=(5, 8)), released_policy(root, vision="da3").model
    )["target_modules"]
    names = [f"model.aggregator.blocks.{index}" for index in range(12)]
    assert [name for name in names if re.fullmatch(pattern, f"{name}.attn.qkv")] == names[6:9]
    assert not re.fullmatch(pattern, "model.aggregator.blocks.7.norm1")


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, {"state_projector", "visual_summary"}),
        ({"use_state": False, "query_conditioning": "none"}, {"no_state"}),
        ({"vision": "patch", "fusion": "early", "head": "flow"}, {"state_projector", "visual_summary", "vision_tower"}),
        ({"vision": "dinov2"}, {"state_projector", "visual_summary"}),
        ({"vision": "da3"}, {"state_projector", "visual_summary"}),
    ],
)
@pytest.mark.parametrize("language", [False, True])
def test_adapters_and_all_new_layers_learn_and_nothing_else(root, settings, more, language):
    policy = released_policy(root, peft_language=language, **settings)
    names = {part: {n for n, _ in module.named_parameters()} for part, module in policy.model.backbones().items()}
    assert all(names.values())
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items() if name != STEPS}
    new = {f"model.{name}" for name in {"fusion", "decoder", "head"} | more}
    model = wrapped(policy)
    assert set(model.peft_config["default"].modules_to_save) == new
    train_a_little(model, preprocessed(policy.config))

    learning = {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}
    lora = {name for name in learning if ".lora_" in name}
    assert {".".join(name.split(".")[:2]) for name in learning - lora} == new
    assert all("modules_to_save" in name for name in learning - lora)
    geometry = ["blocks"] if settings.get("vision") == "da3" else ["frame_blocks", "global_blocks"]
    assert {".".join(name.split(".")[:3]) for name in lora} == {
        *(f"model.aggregator.{name}" for name in geometry),
        *(["model.language.backbone"] if language else []),
    }
    assert all(not torch.equal(p, torch.zeros_like(p)) for n, p in model.named_parameters() if ".lora_B." in n)
    # The base, under the names it had before.
    after = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in policy.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name and name != STEPS
    }
    assert after.keys() == before.keys()
    # Gates were opened by hand.
    assert all(torch.equal(after[n], before[n]) for n in before if "_gate" not in n and ".modulation." not in n)


def test_the_optimizer_gets_everything_that_learns(root):
    model = wrapped(released_policy(root, peft_language=True))
    members = [id(p) for group in model.get_optim_params() for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all("lr" not in group for group in model.get_optim_params())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_adapters_in_bfloat16_backbones_are_float32_and_learn(root, dtype, fusion, settings):
    policy = released_policy(
        root, dtype=dtype, backbone_dtype="bfloat16", fusion=fusion, peft_language=True, **settings
    )
    model = wrapped(policy)
    train_a_little(model, preprocessed(policy.config))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if ".base_layer.weight" in n} == {torch.bfloat16}
    actions = chunk(model, preprocessed(policy.config))
    assert actions.dtype == torch.float32
    assert actions.isfinite().all()


# --- checkpoints ---


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"peft_language": True},
        {"vision": "patch", "fusion": "early", "head": "flow", "peft_language": True},
        {"vision": "dinov2"},
        {"vision": "da3"},
    ],
)
@pytest.mark.parametrize("is_trainable", [True, False])
def test_an_adapter_without_a_checkpoint_comes_back(root, tmp_path, settings, is_trainable):
    policy = released_policy(root, **settings)
    batch = preprocessed(policy.config)
    model = wrapped(policy)
    train_a_little(model, batch)
    expected = chunk(model, batch)
    folder = save(model, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert not any(part in name and ".lora_" not in name for name in tensors for part in ("aggregator", "language."))
    assert not (folder / WEIGHTS).exists()

    torch.manual_seed(99)
    again = load(folder, is_trainable=is_trainable)
    torch.testing.assert_close(chunk(again, batch), expected, rtol=0, atol=0)
    learning = {n for n, p in again.named_parameters() if p.requires_grad}
    assert learning == ({n for n, p in model.named_parameters() if p.requires_grad} if is_trainable else set())
    # It goes on from here as from the first time.
    assert again.base_model.model.name_or_path == FROM_CONFIG


def test_the_base_is_verified(root, tmp_path):
    write_vggt(tmp_path / "vggt")
    policy = released_policy(root, vggt_model=str(tmp_path / "vggt"))
    folder = save(wrapped(policy), tmp_path / "adapter")
    load(folder)
    change_file(tmp_path / "vggt" / WEIGHTS, lambda t: t.update({k: v + 1 for k, v in t.items()}))
    with pytest.raises(WeightsError, match=r"vggt weights of .* are not the ones .* --policy.vggt_model"):
        load(folder)


def test_an_adapter_on_a_checkpoint_names_it(root, tmp_path):
    base = released_policy(root)
    open_gates(base)
    base.save_pretrained(tmp_path / "base")
    config = PreTrainedConfig.from_pretrained(tmp_path / "base")
    config.pretrained_path = tmp_path / "base"
    policy = AtlasVLAPolicy.from_pretrained(tmp_path / "base", config=config)
    batch = preprocessed(config)
    # The decoder was trained already, so this time it may stay as it is.
    model = wrapped(policy, full_training_modules=["model.head"])
    train_a_little(model, batch)
    expected = chunk(model, batch)
    folder = save(model, tmp_path / "adapter")
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path == str(tmp_path / "base")
    assert not any("decoder" in name for name in load_file(folder / "adapter_model.safetensors"))
    torch.testing.assert_close(chunk(load(folder), batch), expected, rtol=0, atol=0)


def test_from_python_a_loaded_policy_is_known_by_its_folder(root, tmp_path):
    released_policy(root).save_pretrained(tmp_path / "base")
    policy = AtlasVLAPolicy.from_pretrained(tmp_path / "base")
    policy.config.pretrained_path = None
    model = wrapped(policy, full_training_modules=[])
    assert model.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


# --- refusals ---


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"vggt_init": "random"}, "vggt .*--policy.vggt_init=pretrained"),
        (
            {"vggt_init": "random", "language_init": "random"},
            "vggt and language .*--policy.vggt_init=pretrained --policy.language_init=pretrained",
        ),
    ],
)
def test_a_random_backbone_can_not_be_adapted_from_scratch(root, settings, flags):
    with pytest.raises(ValueError, match=rf"random weights of {flags}, or train without --peft first .*--policy.path"):
        wrapped(released_policy(root, **settings))


def test_new_layers_must_be_trained_in_full(root):
    with pytest.raises(ValueError, match=r"^model.decoder, model.fusion, .*--peft.full_training_modules is \[\]"):
        wrapped(released_policy(root), full_training_modules=[])
    policy = released_policy(root)
    some = [name for name in policy._get_default_peft_targets()["modules_to_save"] if name != "model.head"]
    with pytest.raises(ValueError, match=r"^model.head start .*--policy.path"):
        wrapped(policy, full_training_modules=some)


def test_the_base_needs_a_configuration():
    with pytest.raises(ValueError, match=r"atlasvla:from-config .*config="):
        AtlasVLAPolicy.from_pretrained(FROM_CONFIG)


def test_a_folder_with_an_adapter_is_no_whole_policy(root, tmp_path):
    folder = save(wrapped(released_policy(root)), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"holds an adapter .*make_policy.*merge_and_unload"):
        AtlasVLAPolicy.from_pretrained(folder)


# --- merging ---


@pytest.mark.parametrize("settings", [{}, {"peft_language": True}])
def test_a_merged_policy_is_saved_with_what_changed_and_loads_again(root, tmp_path, caplog, settings):
    policy = released_policy(root, **settings)
    batch = preprocessed(policy.config)
    model = wrapped(policy)
    train_a_little(model, batch)
    expected = chunk(model, batch)
    with pytest.raises(ValueError, match=r"adapter inside .*merge_and_unload"):
        policy.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never" / WEIGHTS).exists()

    merged = model.merge_and_unload()
    assert merged is policy
    torch.testing.assert_close(chunk(merged, batch), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    changed = {"vggt", "language"} if settings else {"vggt"}
    assert {m.args[0] for m in caplog.records if m.args and "includes it" in m.msg} == changed
    tensors = load_file(tmp_path / "merged" / WEIGHTS)
    assert any(name.startswith("model.aggregator") for name in tensors)
    assert any(name.startswith("model.language") for name in tensors) == ("language" in changed)

    again = AtlasVLAPolicy.from_pretrained(tmp_path / "merged")
    assert not again.config.use_peft
    torch.testing.assert_close(chunk(again, batch), chunk(merged, batch), rtol=0, atol=0)


def test_a_merged_language_model_is_not_answered_from_memory(root, tmp_path):
    policy = released_policy(root, peft_language=True)
    batch = preprocessed(policy.config)
    model = wrapped(policy)
    train_a_little(model, batch)
    folder = save(model, tmp_path / "adapter")
    expected = chunk(model, batch)

    base = AtlasVLAPolicy.from_pretrained(FROM_CONFIG, config=PreTrainedConfig.from_pretrained(folder))
    chunk(base, batch)  # Remembers the features of the language model without the adapter.
    assert base.model.language._cache
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    torch.testing.assert_close(chunk(merged, batch), expected, rtol=1e-4, atol=1e-4)
    assert merged.model.language._cache


def test_switching_an_adapter_off_is_not_answered_from_memory(root, tmp_path):
    policy = released_policy(root, peft_language=True)
    batch = preprocessed(policy.config)
    model = wrapped(policy)
    train_a_little(model, batch)
    model = load(save(model, tmp_path / "adapter"))
    language = model.base_model.model.model.language
    tokens, mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    with torch.no_grad():
        adapted = language(tokens, mask).tokens_BSD
        with model.disable_adapter():
            plain = language(tokens, mask).tokens_BSD
    assert not torch.allclose(adapted, plain)


def test_a_frozen_language_model_without_adapter_still_remembers(root):
    model = wrapped(released_policy(root))
    train_a_little(model, preprocessed(model.config))
    language = model.base_model.model.model.language
    assert len(language._cache) == 1
    chunk(model, preprocessed(model.config, OTHER_TASK))
    assert len(language._cache) == 2
