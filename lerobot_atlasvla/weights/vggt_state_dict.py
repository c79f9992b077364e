"""Names of VGGT's released checkpoint <-> names of our modules.

Everything but the DINOv2 patch embedder carries upstream's names. The patch embedder is transformers'
``Dinov2WithRegistersModel``, which renames most tensors and keeps q, k, v apart (344 tensors become 440 for ViT-L).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

AGGREGATOR_PREFIX = "aggregator."
OWN_HEADS = ("camera_head.", "depth_head.")
"""What the names of VGGT's heads begin with, in the released file beside the aggregator."""
_HEADS_HERE = "own_heads."
# Of the heads of a backbone made by ``atlasvla-pretrain``; they stand beside the aggregator, as VGGT's own heads do.
HEADS_PREFIX = "point_heads."
_PATCH_EMBED = "patch_embed."
# (VGGT's pattern, transformers' pattern) below ``patch_embed.``; ``{i}`` is a block index.
_DINOV2_NAMES = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{p}", "embeddings.patch_embeddings.projection.{p}"),
    ("norm.{p}", "layernorm.{p}"),
    ("blocks.{i}.norm1.{p}", "encoder.layer.{i}.norm1.{p}"),
    ("blocks.{i}.norm2.{p}", "encoder.layer.{i}.norm2.{p}"),
    ("blocks.{i}.mlp.fc1.{p}", "encoder.layer.{i}.mlp.fc1.{p}"),
    ("blocks.{i}.mlp.fc2.{p}", "encoder.layer.{i}.mlp.fc2.{p}"),
    ("blocks.{i}.attn.proj.{p}", "encoder.layer.{i}.attention.output.dense.{p}"),
    ("blocks.{i}.ls1.gamma", "encoder.layer.{i}.layer_scale1.lambda1"),
    ("blocks.{i}.ls2.gamma", "encoder.layer.{i}.layer_scale2.lambda1"),
)
# Below ``patch_embed.``: a single convolution (VGGT's "conv"), and the stem of backbones from scratch.
_OWN_NAMES = ("proj.", "layers.", "pos_embed")
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_QKV_PARTS = ("query", "key", "value")
_QKV_PART = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def is_of_heads(name: str) -> bool:
    """Return whether a tensor belongs to heads that give points, by its name in the file or in the module."""
    return name.startswith((_HEADS_HERE, *OWN_HEADS, HEADS_PREFIX))


def _translate(name: str, *, to_vggt: bool) -> str:
    """Rename one tensor below ``patch_embed.`` (all but q, k, v); raise KeyError if no rule fits."""
    for vggt_pattern, hf_pattern in _DINOV2_NAMES:
        source, target = (hf_pattern, vggt_pattern) if to_vggt else (vggt_pattern, hf_pattern)
        regex = re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{p\}", r"(?P<p>weight|bias)")
        if match := re.fullmatch(regex, name):
            return target.format(**match.groupdict())
    raise KeyError(f"No rule renames {_PATCH_EMBED + name!r}.")


def from_vggt(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of VGGT's aggregator to the state dict of :class:`~.model.geometry.vggt.Aggregator`.

    Args:
        tensors: Checkpoint names without the ``aggregator.`` prefix; those of VGGT's heads have none.

    Raises:
        KeyError: For a DINOv2 tensor that no rule covers.
    """
    renamed: dict[str, Tensor] = {}
    # Only DINOv2 has a class token beside its positions; the stem has a pos_embed, too, under its own name.
    own = _OWN_NAMES if f"{_PATCH_EMBED}cls_token" not in tensors else _OWN_NAMES[:-1]
    for name, tensor in tensors.items():
        if name.startswith(OWN_HEADS):
            renamed[_HEADS_HERE + name] = tensor
            continue
        if not name.startswith(_PATCH_EMBED) or name.removeprefix(_PATCH_EMBED).startswith(own):
            renamed[name] = tensor
            continue
        inner = name.removeprefix(_PATCH_EMBED)
        if match := _QKV.fullmatch(inner):
            for part, chunk in zip(_QKV_PARTS, tensor.chunk(3), strict=True):
                layer, kind = match.groups()
                renamed[f"{_PATCH_EMBED}encoder.layer.{layer}.attention.attention.{part}.{kind}"] = chunk
        else:
            renamed[_PATCH_EMBED + _translate(inner, to_vggt=False)] = tensor
    return renamed


def to_vggt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors back to VGGT's own names: the inverse of :func:`from_vggt`.

    Raises:
        KeyError: For a DINOv2 tensor that no rule covers, or a q, k or v without its partners.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name.startswith(_HEADS_HERE):
            renamed[name.removeprefix(_HEADS_HERE)] = tensor
            continue
        inner = name.removeprefix(_PATCH_EMBED)
        if not name.startswith(_PATCH_EMBED) or inner.startswith(_OWN_NAMES):
            renamed[name] = tensor
        elif match := _QKV_PART.fullmatch(inner):
            layer, part, kind = match.groups()
            if part == "query":
                stem = f"{_PATCH_EMBED}encoder.layer.{layer}.attention.attention"
                parts = [state_dict[f"{stem}.{p}.{kind}"] for p in _QKV_PARTS]
                renamed[f"{_PATCH_EMBED}blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        else:
            renamed[_PATCH_EMBED + _translate(inner, to_vggt=True)] = tensor
    return renamed
