"""Action queries and the decoder in which they read the scene.

Shape suffixes: B batch, Q action queries, T chunk, S context, D decoder width, E condition width.
"""

import torch
from torch import Tensor, nn

from .layers import CrossAttention, Mlp, SelfAttention
from .types import Prefix, TokenGroup


class ActionQueries(nn.Module):
    """Learned queries, shifted by what is known of this sample.

    Args:
        count: Queries Q.
        dim: Width D.
        condition_dim: Width E of the condition; 0 = no condition, the queries are only learned.
        hidden_dim: Hidden width of the MLP that reads the condition.
    """

    def __init__(self, count: int, dim: int, condition_dim: int, hidden_dim: int):
        super().__init__()
        self.count = count
        self.queries = nn.Parameter(torch.empty(1, count, dim))
        nn.init.normal_(self.queries, std=0.02)
        if condition_dim:
            self.condition = nn.Sequential(
                nn.Linear(condition_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, count * dim)
            )

    def forward(self, condition_BE: Tensor | None, batch: int) -> Tensor:
        """Map ``(B, E)`` or nothing to ``(B, Q, D)``."""
        if condition_BE is None:
            return self.queries.expand(batch, -1, -1)
        return self.queries + self.condition(condition_BE).unflatten(-1, (self.count, -1))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to geometry, cross-attention to language and state, MLP (all pre-norm).

    The attention to geometry has no gate. A zero-initialized one (Flamingo, arXiv:2204.14198, sec. 2.2) protects a
    pretrained stream, and this decoder has none; it stayed closed, and the policy ignored its geometry backbone.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, num_heads, qk_norm=False)
        self.geometry_norm = nn.LayerNorm(dim)
        self.geometry_attention = CrossAttention(dim, num_heads)
        self.context_norm = nn.LayerNorm(dim)
        self.context_attention = CrossAttention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x_BQD: Tensor, geometry: TokenGroup, context: TokenGroup) -> Tensor:
        """Map ``(B, Q, D)`` to ``(B, Q, D)``."""
        x_BQD = x_BQD + self.self_attention(self.self_norm(x_BQD))
        x_BQD = x_BQD + self.geometry_attention(self.geometry_norm(x_BQD), geometry)
        x_BQD = x_BQD + self.context_attention(self.context_norm(x_BQD), context)
        return x_BQD + self.mlp(self.mlp_norm(x_BQD))


class ActionDecoder(nn.Module):
    """Action queries through decoder blocks, one feature per action of the chunk: ``Prefix -> (B, T, D)``.

    Args:
        dim: Width D.
        num_layers: Decoder blocks.
        num_heads: Attention heads.
        num_queries: Action queries Q.
        chunk_size: Actions T.
        condition_dim: As in :class:`ActionQueries`.
        condition_hidden_dim: Hidden width of the MLP that conditions the queries.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_queries: int,
        chunk_size: int,
        condition_dim: int,
        condition_hidden_dim: int,
    ):
        super().__init__()
        self.queries = ActionQueries(num_queries, dim, condition_dim, condition_hidden_dim)
        self.blocks = nn.ModuleList(DecoderBlock(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        # As many queries as actions: each is one action. Otherwise every action is its own mixture of all queries.
        self.mixture = nn.Linear(num_queries, chunk_size) if num_queries != chunk_size else None

    def forward(self, prefix: Prefix) -> Tensor:
        """Let the queries read the prefix."""
        x_BQD = self.queries(prefix.condition_BE, len(prefix.geometry.tokens_BSD))
        for block in self.blocks:
            x_BQD = block(x_BQD, prefix.geometry, prefix.context)
        x_BQD = self.norm(x_BQD)
        return x_BQD if self.mixture is None else self.mixture(x_BQD.mT).mT
