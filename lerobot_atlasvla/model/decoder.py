"""Action queries and the decoder in which they read the scene.

Shape suffixes: B batch, T chunk, S context, D decoder width, E condition width.
Source of the zero-initialised tanh gate: Alayrac et al., Flamingo, NeurIPS 2022, arXiv:2204.14198, sec. 2.2.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn

from .layers import Mlp, SelfAttention
from .tokens import Prefix, TokenGroup


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes of the decoder.

    Attributes:
        hidden_size: Width D.
        num_layers: Decoder blocks.
        num_heads: Attention heads.
        condition_hidden_size: Hidden width of the MLP that conditions the queries.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    condition_hidden_size: int


class ActionQueries(nn.Module):
    """One learnable query per action of the chunk, shifted by what is known of this sample."""

    def __init__(self, chunk_size: int, dim: int, condition_dim: int, hidden_dim: int):
        super().__init__()
        self.chunk_size = chunk_size
        self.queries = nn.Parameter(torch.empty(1, chunk_size, dim))
        nn.init.normal_(self.queries, std=0.02)
        self.condition = nn.Sequential(
            nn.Linear(condition_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, chunk_size * dim)
        )

    def forward(self, condition_BE: Tensor) -> Tensor:
        """``(B, E)`` to ``(B, T, D)``."""
        return self.queries + self.condition(condition_BE).unflatten(-1, (self.chunk_size, -1))


class CrossAttention(nn.Module):
    """Multi-head attention from queries to a token group (``is_real`` masks: True = may be looked at)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, group: TokenGroup) -> Tensor:
        """``(B, T, D)`` queries look at a group of S tokens: ``(B, T, D)``."""
        q = self.query(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.key_value(group.tokens_BSD).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if group.mask_BS is None else group.mask_BS[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Self-attention, gated cross-attention to geometry, cross-attention to language and state, MLP (all pre-norm)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, num_heads, qk_norm=False)
        self.geometry_norm = nn.LayerNorm(dim)
        self.geometry_attention = CrossAttention(dim, num_heads)
        # tanh(0) = 0: a foreign geometry backbone is let in as far as it helps, not at once.
        self.geometry_gate = nn.Parameter(torch.zeros(1))
        self.context_norm = nn.LayerNorm(dim)
        self.context_attention = CrossAttention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x_BTD: Tensor, geometry: TokenGroup, context: TokenGroup) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``."""
        x_BTD = x_BTD + self.self_attention(self.self_norm(x_BTD))
        gate = self.geometry_gate.tanh()
        x_BTD = x_BTD + gate * self.geometry_attention(self.geometry_norm(x_BTD), geometry)
        x_BTD = x_BTD + self.context_attention(self.context_norm(x_BTD), context)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class ActionDecoder(nn.Module):
    """Action queries through decoder blocks: ``Prefix -> (B, T, D)``."""

    def __init__(self, spec: DecoderSpec, *, chunk_size: int, condition_dim: int):
        super().__init__()
        self.queries = ActionQueries(chunk_size, spec.hidden_size, condition_dim, spec.condition_hidden_size)
        self.blocks = nn.ModuleList(DecoderBlock(spec.hidden_size, spec.num_heads) for _ in range(spec.num_layers))
        self.norm = nn.LayerNorm(spec.hidden_size)

    def forward(self, prefix: Prefix) -> Tensor:
        """Let the queries read the prefix: ``(B, T, D)``."""
        x_BTD = self.queries(prefix.condition_BE)
        for block in self.blocks:
            x_BTD = block(x_BTD, prefix.geometry, prefix.context)
        return self.norm(x_BTD)
