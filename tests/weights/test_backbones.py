"""Pretrained parts come from where they should, completely, and every gap is an error that says what to do."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.model.sizes.architecture import SIZES
from lerobot_atlasvla.processor_atlasvla import make_tokenizer
from lerobot_atlasvla.weights import backbones
from lerobot_atlasvla.weights.download import WeightsError
from tests.conftest import tiny_config
from tests.helpers.released import (
    FOREIGN,
    SMALL_DINOV2,
    SPECIAL,
    WEIGHTS,
    change_file,
    preprocessed,
    released_config,
    released_policy,
    write_all,
    write_dinov2,
    write_qwen3,
    write_vggt,
)

VGGT_ID = "someone/eyes"


@pytest.fixture
def root(tmp_path):
    return write_all(tmp_path / "released")


# --- what is read ---


def test_the_policy_has_the_values_of_the_files(root):
    policy = released_policy(root, vision="dinov2", fusion="late")
    parts = policy.model.backbones()
    for part, folder, prefix in (
        ("vggt", "vggt", "aggregator."),
        ("language", "qwen3", "model."),
        ("vision_tower", "dinov2", ""),
    ):
        file = load_file(root / folder / WEIGHTS)
        for name, tensor in parts[part].state_dict().items():
            assert torch.equal(tensor, file[prefix + name].float()), (part, name)


def test_q_k_and_v_of_vggts_dinov2_are_taken_from_one_tensor(tmp_path):
    """The map between the released names and transformers' is applied on the way in."""
    from safetensors.torch import save_file

    from lerobot_atlasvla.model.geometry.vggt import Aggregator

    sizes = {"embed_dim": 384, "depth": 1, "num_heads": 6}
    upstream = backbones.to_vggt(Aggregator(patch_embed="dinov2_vits14_reg", **sizes).state_dict())
    torch.manual_seed(0)
    file = {f"aggregator.{name}": torch.randn(t.shape) * 0.02 for name, t in upstream.items()}
    save_file(file, tmp_path / WEIGHTS)
    names = {f"vggt_{name}": value for name, value in sizes.items()}
    config = tiny_config(
        **names,
        vggt_init="pretrained",
        vggt_model=str(tmp_path),
        vggt_patch_embed="dinov2_vits14_reg",
        vggt_patch_size=14,
        vggt_output_layers=(0,),
        image_size=(28, 28),
    )
    layer = AtlasVLAPolicy(config).model.aggregator.patch_embed.encoder.layer[3].attention.attention
    stem = "aggregator.patch_embed.blocks.3.attn.qkv"
    for index, name in enumerate(("query", "key", "value")):
        for kind in ("weight", "bias"):
            expected = file[f"{stem}.{kind}"][384 * index : 384 * (index + 1)]
            assert torch.equal(getattr(getattr(layer, name), kind), expected), (name, kind)


@pytest.mark.parametrize(
    ("overrides", "unread"),
    [
        ({}, 0),
        ({"vision": "patch"}, 2),  # patch_embed.proj.weight and .bias
        ({"fusion": "early"}, len(SPECIAL)),
        ({"vggt_depth": 1, "vggt_output_layers": (0,)}, 36),
    ],
)
def test_the_log_counts_what_was_read_and_what_was_not(root, caplog, overrides, unread):
    caplog.set_level(logging.INFO)
    policy = released_policy(root, **overrides)
    read = len(policy.model.aggregator.state_dict())
    released = sum(name.startswith("aggregator.") for name in load_file(root / "vggt" / WEIGHTS))
    assert read == released - unread
    line = next(line for line in caplog.messages if line.startswith(f"{root / 'vggt'}: "))
    assert f"{read} tensors matched, {unread + len(FOREIGN)} ignored" in line
    assert "camera_head 2" in line
    assert "point_head 1" in line
    assert ("aggregator" in line.split("ignored")[1]) == bool(unread)


def test_another_vision_reads_no_patch_embedder_of_vggt(root):
    change_file(root / "vggt" / WEIGHTS, lambda t: [t.pop(n) for n in list(t) if ".patch_embed." in n])
    assert not hasattr(released_policy(root, vision="patch").model.aggregator, "patch_embed")
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight"):
        released_policy(root)


def test_of_a_deeper_vggt_the_first_blocks_are_taken(root):
    write_vggt(root / "deep", depth=3)
    file = load_file(root / "deep" / WEIGHTS)
    aggregator = released_policy(root, vggt_model=str(root / "deep")).model.aggregator
    assert len(aggregator.frame_blocks) == len(aggregator.global_blocks) == 2
    for name, tensor in aggregator.state_dict().items():
        assert torch.equal(tensor, file[f"aggregator.{name}"]), name


def test_every_source_is_read_once(root, tmp_path, monkeypatch):
    sources = []
    real = backbones.read_tensors

    def spy(*args, source, **kwargs):
        sources.append(source)
        return real(*args, source=source, **kwargs)

    monkeypatch.setattr(backbones, "read_tensors", spy)
    expected = sorted(str(root / name) for name in ("vggt", "qwen3", "dinov2"))
    released_policy(root, vision="dinov2").save_pretrained(tmp_path / "saved")
    assert sorted(sources) == expected
    sources.clear()
    AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert sorted(sources) == expected


# --- what can't be read ---


@pytest.mark.parametrize(
    ("folder", "prefix", "name", "flag"),
    [
        ("vggt", "aggregator.", "frame_blocks.1.mlp.fc1.bias", "--policy.vggt_model"),
        ("qwen3", "model.", "layers.1.mlp.up_proj.weight", "--policy.language_model"),
        ("dinov2", "", "encoder.layer.1.mlp.fc1.bias", "--policy.vision_tower"),
    ],
)
@pytest.mark.parametrize("problem", ["missing", "shape"])
def test_a_gap_in_the_weights_names_key_file_and_flag(root, folder, prefix, name, flag, problem):
    def damage(tensors):
        del tensors[prefix + name]
        if problem == "shape":
            tensors[prefix + name] = torch.zeros(3)

    file = root / folder / WEIGHTS
    change_file(file, damage)
    with pytest.raises(WeightsError) as error:
        released_policy(root, vision="dinov2")
    for needle in (problem, name, str(file), flag):
        assert needle in str(error.value)


@pytest.mark.parametrize(("part", "flag"), [("qwen3", "--policy.language_model"), ("dinov2", "--policy.vision_tower")])
@pytest.mark.parametrize("content", [None, "{"])
def test_a_missing_or_broken_config_json_names_the_folder_and_the_flag(root, part, flag, content):
    file = root / part / "config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(WeightsError) as error:
        released_policy(root, vision="dinov2")
    for needle in ("config.json", str(root / part), flag):
        assert needle in str(error.value)


@pytest.mark.parametrize(("part", "flag"), [("qwen3", "language_model"), ("dinov2", "vision_tower")])
def test_a_model_of_another_kind_is_refused_with_its_type_and_the_flag(root, part, flag):
    content = json.loads((root / part / "config.json").read_text()) | {"model_type": "llama"}
    (root / part / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"(?s)'llama'.*--policy.{flag}"):
        released_policy(root, vision="dinov2")


@pytest.mark.parametrize("part", ["vggt", "language", "vision_tower"])
def test_random_weights_are_never_a_substitute(root, part):
    """Without the files there is no policy: the error names the flag that asks for random weights."""
    folder = {"vggt": "vggt", "language": "qwen3", "vision_tower": "dinov2"}[part]
    shutil.rmtree(root / folder)
    with pytest.raises(WeightsError, match=f"--policy.{part}_init=random"):
        released_policy(root, vision="dinov2")


@pytest.mark.parametrize("part", ["vggt", "language", "vision_tower"])
def test_random_weights_that_were_asked_for_are_announced(root, caplog, monkeypatch, part):
    monkeypatch.setattr(backbones, "DINOV2_BASE", SMALL_DINOV2)
    overrides = {"vision": "dinov2", f"{part}_init": "random"}
    policy = released_policy(root, **overrides)
    assert [r.message for r in caplog.records if "RANDOM" in r.message and f"{part}_init=random" in r.message]
    assert sorted(policy.config.backbone_sources) == sorted({"vggt", "language", "vision_tower"} - {part})


def test_nothing_is_announced_where_all_is_pretrained(root, caplog):
    released_policy(root, vision="dinov2")
    assert "RANDOM" not in caplog.text


# --- other checks of the sources ---


def test_a_language_model_without_a_tokenizer_is_refused(root):
    for file in (root / "qwen3").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(WeightsError, match="tokenizer") as error:
        make_atlasvla_pre_post_processors(released_config(root))
    for needle in (str(root / "qwen3"), "--policy.language_model"):
        assert needle in str(error.value)


def test_the_dinov2_of_a_model_with_a_head_is_read(root):
    """Checkpoints of a model with a head call the same tensors ``dinov2.*``."""

    def rename(tensors):
        for name in list(tensors):
            tensors[f"dinov2.{name}"] = tensors.pop(name)
        tensors["classifier.weight"] = torch.zeros(2, 2)

    plain = released_policy(root, vision="dinov2").config.backbone_sources["vision_tower"]
    change_file(root / "dinov2" / WEIGHTS, rename)
    assert released_policy(root, vision="dinov2").config.backbone_sources["vision_tower"] == plain


def test_weights_of_another_seed_make_another_policy(root):
    batch = preprocessed(released_config(root))
    write_qwen3(root / "other", seed=9)
    write_dinov2(root / "tower", seed=9)
    plain, other = released_policy(root), released_policy(root, language_model=str(root / "other"))
    assert (plain.predict_action_chunk(batch) - other.predict_action_chunk(batch)).abs().max() > 1e-5
    tower = {"vision": "dinov2"}
    plain, other = released_policy(root, **tower), released_policy(root, **tower, vision_tower=str(root / "tower"))
    assert (plain.predict_action_chunk(batch) - other.predict_action_chunk(batch)).abs().max() > 1e-5


def test_a_dinov2_without_a_mask_token_is_read(root):
    config = root / "dinov2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_mask_token": False}))
    change_file(root / "dinov2" / WEIGHTS, lambda tensors: tensors.pop("embeddings.mask_token"))
    policy = released_policy(root, vision="dinov2")
    assert policy.predict_action_chunk(preprocessed(policy.config)).isfinite().all()


# --- files that ask for more than to be read ---


def edit_json(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_language_models_config_chooses_no_code(root):
    edit_json(root / "qwen3/config.json", attn_implementation="someone/kernel", auto_map={"AutoModel": "evil.M"})
    policy = released_policy(root)
    assert set(policy.config.backbone_architectures["language"]) <= {"model_type", *SIZES["qwen3"]}
    assert policy.model.language.backbone.config._attn_implementation == "sdpa"


def test_a_size_that_is_no_number_names_the_flag(root):
    edit_json(root / "qwen3/config.json", hidden_size="16")
    with pytest.raises(WeightsError, match=r"hidden_size must be a whole number, got '16' \(--policy.language_model\)"):
        released_policy(root)


def test_the_python_of_a_tokenizer_is_not_run_even_if_someone_says_yes(root, monkeypatch, tmp_path):
    """transformers asks on the terminal whether to run it, unless it is told never to."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (root / "qwen3/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    edit_json(
        root / "qwen3/tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}
    )
    edit_json(root / "qwen3/config.json", model_type="evil", auto_map={"AutoConfig": "evil.T"})
    (root / "qwen3/tokenizer.json").rename(root / "qwen3/vocab.json")
    with pytest.raises(WeightsError, match="needs Python code of that folder, which is never run"):
        make_tokenizer(released_config(root))
    assert not (tmp_path / "ran").exists()
