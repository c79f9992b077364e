"""Tiny checkpoints in the released formats (VGGT, Qwen3, Qwen2, DINOv2), and configurations that use them."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.inputs import prepare
from lerobot_atlasvla.model.geometry.da3 import DA3Encoder
from lerobot_atlasvla.model.geometry.vggt import Aggregator
from lerobot_atlasvla.model.geometry.vggt_heads import CameraHead, DepthHead
from lerobot_atlasvla.model.types import ModelInputs, Prefix
from lerobot_atlasvla.policy.pipelines.byte_tokenizer import PAD_TOKEN, VOCAB_SIZE, make_byte_tokenizer
from tests.conftest import dataset_stats, raw_batch, tiny_config

WEIGHTS = "model.safetensors"
WIDTH = 32
QWEN_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
DINOV2_SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
# Takes the place of DINOv2-B where a vision tower is asked for at random.
SMALL_DINOV2 = {"model_type": "dinov2", **DINOV2_SIZES}
# What VGGT-1B has besides its aggregator.
FOREIGN = {"camera_head.token_norm.weight": (8,), "camera_head.pose.bias": (9,), "point_head.norm.weight": (4,)}
# The Hub's names, and what DA3-SMALL has besides its encoder.
DA3_PREFIX = "model.backbone.pretrained."
DA3_FOREIGN = {"model.cam_dec.fc_t.weight": (3, 8), "model.cam_enc.token_norm.bias": (8,), "model.head.norm.bias": (4,)}
# In early fusion these are not read: the instruction takes the place of camera and register tokens.
SPECIAL = ("camera_token", "register_token")


def write_vggt(
    folder: Path, *, seed: int = 1, depth: int = 2, patch_size: int = 8, suffix: str = "safetensors"
) -> Path:
    """A VGGT with a convolution as its patch embedder; every tensor random, also norms and biases."""
    folder.mkdir(parents=True, exist_ok=True)
    module = Aggregator(patch_embed="conv", patch_size=patch_size, embed_dim=WIDTH, depth=depth, num_heads=2)
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    tensors = {f"aggregator.{name}": draw(tensor.shape) for name, tensor in module.state_dict().items()}
    tensors |= {name: draw(shape) for name, shape in FOREIGN.items()}
    if suffix == "pt":
        torch.save(tensors, folder / "model.pt")
    else:
        save_file(tensors, folder / WEIGHTS)
    return folder


def write_da3(
    folder: Path, *, seed: int = 6, width: int = WIDTH, depth: int = 6, prefix: str = DA3_PREFIX, heads: int = 2
) -> Path:
    """A DA3 as the Hub has it; every tensor random, also norms and biases."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        module = DA3Encoder(embed_dim=width, depth=depth, num_heads=heads)
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"{prefix}{name}": tensor.shape for name, tensor in module.state_dict().items()} | DA3_FOREIGN
    save_file({n: torch.randn(shape, generator=generator) * 0.2 for n, shape in shapes.items()}, folder / WEIGHTS)
    return folder


def write_qwen3(folder: Path, *, seed: int = 2) -> Path:
    """A Qwen3 for causal language modeling, in bfloat16 as it is released, with the byte tokenizer."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**QWEN_SIZES, head_dim=8)).to(torch.bfloat16)
    model.save_pretrained(folder)
    make_byte_tokenizer().save_pretrained(folder)
    return folder


def write_qwen2(folder: Path, *, seed: int = 3) -> Path:
    """A Qwen2, whose tokenizer numbers the bytes the other way round."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**QWEN_SIZES)).to(torch.bfloat16)
    model.save_pretrained(folder)
    reversed_byte_tokenizer().save_pretrained(folder)
    return folder


def reversed_byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate([PAD_TOKEN, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN)


def write_dinov2(folder: Path, *, seed: int = 4) -> Path:
    """A DINOv2 tower, patch size 14, 24 wide."""
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**DINOV2_SIZES)).save_pretrained(folder)
    return folder


def write_with_heads(root: Path) -> Path:
    """:func:`write_all` with a VGGT four pairs deep and its camera and depth heads."""
    write_all(root)
    write_vggt(root / "vggt", depth=4)
    torch.manual_seed(5)
    heads = {
        "camera_head": CameraHead(2 * WIDTH),
        "depth_head": DepthHead(2 * WIDTH, patch_size=8, layers=range(4), features=8, out_channels=(8, 16, 32, 32)),
    }
    file = root / "vggt" / WEIGHTS
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("camera_head.")}
    for name, head in heads.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}
    save_file(tensors, file)
    return root


def write_all(root: Path) -> Path:
    """``root/vggt``, ``root/da3``, ``root/qwen3`` and ``root/dinov2``."""
    write_vggt(root / "vggt")
    write_da3(root / "da3")
    write_qwen3(root / "qwen3")
    write_dinov2(root / "dinov2")
    return root


def released_config(root: Path, **overrides) -> AtlasVLAConfig:
    """A tiny policy on the weights of :func:`write_all`, everything pretrained."""
    values = {
        "vggt_init": "pretrained",
        "vggt_model": str(root / "vggt"),
        "vggt_patch_embed": "conv",
        "da3_init": "pretrained",
        "da3_model": str(root / "da3"),
        "language_init": "pretrained",
        "language_model": str(root / "qwen3"),
        "vision_tower": str(root / "dinov2"),
        "image_size": (28, 28) if overrides.get("vision") in ("dinov2", "da3") else (32, 32),
        "vision_patch_size": 8,
        "vision_patch_dim": 16,
    }
    return tiny_config(**(values | overrides))


def released_policy(root: Path, **overrides) -> AtlasVLAPolicy:
    torch.manual_seed(0)
    return AtlasVLAPolicy(released_config(root, **overrides))


def tiny_policy(**overrides) -> AtlasVLAPolicy:
    """A policy from scratch with open gates."""
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(**overrides))
    open_gates(policy)
    return policy


def open_gates(policy: AtlasVLAPolicy) -> None:
    """Gates that start at zero hide the gradient, and the effect, of what is behind them."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in policy.model.head.named_parameters():
        if ".modulation." in name:
            nn.init.normal_(parameter, std=0.2, generator=generator)


def save_checkpoint(folder: Path, **overrides) -> Path:
    """A tiny policy from scratch, saved as lerobot-train saves it."""
    return save(tiny_policy(**overrides), folder)


def save(policy: AtlasVLAPolicy, folder: Path) -> Path:
    """A policy and its pipelines, as lerobot-train saves them."""
    policy.save_pretrained(folder)
    for processor in make_atlasvla_pre_post_processors(policy.config, dataset_stats()):
        processor.save_pretrained(folder)
    return folder


def preprocessed(config: AtlasVLAConfig, *tasks: str, seed: int = 0) -> dict:
    """A batch, one sample per task (three samples of one task if none is given)."""
    preprocessor, _ = make_atlasvla_pre_post_processors(config, dataset_stats())
    raw = raw_batch(len(tasks) or 3, seed)
    return preprocessor(raw | {"task": list(tasks)} if tasks else raw)


def inputs_of(policy: AtlasVLAPolicy, batch: dict) -> ModelInputs:
    """What the network gets of a batch, without augmentation."""
    return prepare(policy.config, batch, training=False)


def prefix_of(policy: AtlasVLAPolicy, batch: dict) -> Prefix:
    """What the decoder may look at."""
    model, inputs = policy.model, inputs_of(policy, batch)
    return model.fuse(model.encode_views(inputs.views), model.encode_language(inputs), inputs.state_BN)


def files_of(folder: Path, *extra: str) -> dict[str, bytes]:
    """A folder as a Hub repository, with files that nobody needs."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | dict.fromkeys(("README.md", "pytorch_model.bin", "samples/one.mp4", *extra), b"not needed")


def change_file(file: Path, change) -> None:
    """Let ``change`` edit the dictionary of a safetensors file's tensors."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=metadata)
