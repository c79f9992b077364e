"""Transformer blocks of VGGT and DA3: pre-norm attention with layer scale, q/k-norm and 2-D rotary positions.

Shape suffixes: B batch, P tokens, C width, H heads, K head dim.
Source: Wang et al., VGGT, CVPR 2025, arXiv:2503.11651, sec. 3.2; parameter names as in the released checkpoint.
Differs: rotary tables are always float32 (the reference follows the dtype of q).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from .types import TokenGroup

ROPE_BASE = 100.0


class RopeTables(NamedTuple):
    """Cosine and sine of the rotary angles, both ``(P, K)`` float32; the sine with the sign that it is used with."""

    cos_PK: Tensor
    sin_PK: Tensor


def rope_2d_tables(positions_P2: Tensor, head_dim: int) -> RopeTables:
    """Build rotary tables for 2-D positions: the first half of a head turns with y, the second with x.

    Args:
        positions_P2: Integer (y, x) of each token; (0, 0) leaves a token unrotated.
        head_dim: Channels per head, a multiple of 4.

    Returns:
        Tables for :func:`apply_rope`.

    Raises:
        ValueError: If ``head_dim`` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"2-D rotary positions need a head size that is a multiple of 4, got {head_dim}.")
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, device=positions_P2.device, dtype=torch.float32) / half
    inverse_frequencies = ROPE_BASE**-exponents
    angles_P2Q = positions_P2.to(torch.float32)[:, :, None] * inverse_frequencies
    # Within each half the angles are repeated, [a | a]: channels i and i + half/2 form one rotated pair.
    cos_PK = angles_P2Q.cos().repeat(1, 1, 2).flatten(1)
    # The first channel of a pair gets minus the second one's share. The sign is in the table and not put on q and k.
    sin_P2Q = angles_P2Q.sin()
    return RopeTables(cos_PK, torch.cat((-sin_P2Q, sin_P2Q), dim=-1).flatten(1))


def apply_rope(x_BHPK: Tensor, tables: RopeTables) -> Tensor:
    """Rotate queries or keys; the result has the dtype of ``x_BHPK``."""
    cos, sin = tables
    # First and second channels of the pairs that turn with y, then of those that turn with x.
    y_first, y_second, x_first, x_second = x_BHPK.chunk(4, dim=-1)
    partners = torch.cat((y_second, y_first, x_second, x_first), dim=-1)
    return (x_BHPK * cos + partners * sin).to(x_BHPK.dtype)


class LayerScale(nn.Module):
    """Learned per-channel gain of a residual branch (parameter ``gamma``)."""

    def __init__(self, dim: int, init_value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x_BPC: Tensor) -> Tensor:
        """Map ``(B, P, C)`` to ``(B, P, C)``."""
        return x_BPC * self.gamma


class Mlp(nn.Module):
    """Two linear layers with exact (erf) GELU; ``out_dim`` is ``dim`` if not given."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim if out_dim is None else out_dim)

    def forward(self, x_BPC: Tensor) -> Tensor:
        """Map ``(B, P, dim)`` to ``(B, P, out_dim)``."""
        return self.fc2(F.gelu(self.fc1(x_BPC)))


class SelfAttention(nn.Module):
    """Multi-head self-attention; q/k LayerNorm per head (eps 1e-5), then rotary positions, then attention."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BPC: Tensor, rope: RopeTables | None = None, mask_BP: Tensor | None = None) -> Tensor:
        """Map ``(B, P, C)`` to ``(B, P, C)``; ``rope`` holds one row per token, ``mask_BP`` is True for real tokens."""
        qkv_3BHPK = self.qkv(x_BPC).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHPK, k_BHPK, v_BHPK = qkv_3BHPK.unbind(0)
        q_BHPK, k_BHPK = self.q_norm(q_BHPK), self.k_norm(k_BHPK)
        if rope is not None:
            q_BHPK, k_BHPK = apply_rope(q_BHPK, rope), apply_rope(k_BHPK, rope)
        mask_B11P = None if mask_BP is None else mask_BP[:, None, None, :]
        out_BHPK = F.scaled_dot_product_attention(q_BHPK, k_BHPK, v_BHPK, attn_mask=mask_B11P)
        return self.proj(out_BHPK.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """``x += ls1(attn(norm1(x))); x += ls2(mlp(norm2(x)))``."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: bool = True,
        layer_scale_init: float = 0.01,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = SelfAttention(dim, num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, layer_scale_init)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim, layer_scale_init)

    def forward(self, x_BPC: Tensor, rope: RopeTables | None = None, mask_BP: Tensor | None = None) -> Tensor:
        """Map ``(B, P, C)`` to ``(B, P, C)``; arguments as in :class:`SelfAttention`."""
        x_BPC = x_BPC + self.ls1(self.attn(self.norm1(x_BPC), rope, mask_BP))
        return x_BPC + self.ls2(self.mlp(self.norm2(x_BPC)))


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to a token group.

    Args:
        dim: Width of the sequence and of the result.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BPC: Tensor, group: TokenGroup) -> Tensor:
        """Queries ``(B, P, C)`` look at a group of S tokens of width C: ``(B, P, C)``."""
        q = self.query(x_BPC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.key_value(group.tokens_BSD).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if group.mask_BS is None else group.mask_BS[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))
