"""How the weights and images of golden cases are drawn from seeds, and how close outputs must come."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch

NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "q_norm.weight", "k_norm.weight")
MATRICES = (".attn.qkv.weight", ".attn.proj.weight", ".fc1.weight", ".fc2.weight")
MAX_DIFFERENCE = {"plain": 1e-5, "strong": 1e-4, "strong_smallqk": 1e-4}
MAX_RELATIVE = 5e-6


def draw_weight(key: str, shape: Sequence[int], seed: int, profile: str) -> torch.Tensor:
    """A tensor of a case, by its name in the released file."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()) ^ seed))
    if profile == "plain":
        offset = 1.0 if key.endswith(NORMS) else 0.1 if key.endswith(".gamma") else 0.0
        return offset + 0.02 * noise
    if key.endswith(NORMS):
        return 1.0 + 0.1 * noise
    if key.endswith(".gamma"):
        return 0.5 + 0.1 * noise
    if key.endswith(MATRICES):
        weight = noise * (1.5 / shape[1] ** 0.5)
    elif key.endswith(".weight"):
        weight = noise * (1.0 / torch.tensor(shape[1:]).prod().item() ** 0.5)
    else:
        weight = noise * (0.1 if key.endswith(".bias") else 0.5)
    if profile == "strong_smallqk" and ".attn.qkv." in key:
        weight[: 2 * shape[0] // 3] *= 0.01
    return weight


def draw_weights(meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of a case; its own checksums say whether they are those of the reference."""
    weights = {}
    for key, (shape, total, absolute) in meta["weights_checksum"]["per_tensor[shape,sum,abs_sum]"].items():
        weights[key] = draw_weight(key, shape, meta["seed"], meta["profile"])
        drawn = weights[key].double().sum().item()
        assert abs(drawn - total) <= 1e-4 * max(1.0, absolute), f"{key}: this torch draws other numbers"
    return weights


def draw_images(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Images of a case, in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(b"images") ^ seed))
