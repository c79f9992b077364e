"""The instruction encoder: a Qwen3 language model read at its last layer.

Shape suffixes: B batch, L words, E language width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model


@dataclass(frozen=True)
class LanguageSpec:
    """Sizes of a Qwen3 encoder that starts from random weights.

    Attributes:
        vocab_size: Tokens of the tokenizer.
        hidden_size: Width E.
        num_layers: Transformer blocks.
        num_heads: Attention heads (twice as many as key/value heads).
        max_length: Most tokens an instruction may have.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_length: int


class LanguageEncoder(nn.Module):
    """Instruction tokens to one feature per token; each distinct instruction of a batch is encoded once."""

    def __init__(self, spec: LanguageSpec):
        super().__init__()
        self.hidden_size = spec.hidden_size
        # Qwen3Model has no language-model head: nothing here predicts words.
        sizes: dict[str, Any] = {
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.hidden_size,
            "intermediate_size": 3 * spec.hidden_size,
            "num_hidden_layers": spec.num_layers,
            "num_attention_heads": spec.num_heads,
            "num_key_value_heads": max(1, spec.num_heads // 2),
            "head_dim": spec.hidden_size // spec.num_heads,
            "max_position_embeddings": spec.max_length,
            "use_cache": False,
        }
        self.backbone = Qwen3Model(Qwen3Config(**sizes))

    def forward(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Encode instructions.

        Args:
            tokens_BL: Token ids, padded on the right.
            mask_BL: True = real token.

        Returns:
            Features ``(B, L, E)``; those of padding are zero.
        """
        # A batch of robot data repeats a handful of sentences: encode each once and hand out copies.
        keyed = torch.where(mask_BL, tokens_BL, -1)
        distinct, index_B = torch.unique(keyed, dim=0, return_inverse=True)
        mask_UL = distinct >= 0
        features_ULE = self.backbone(
            input_ids=distinct.clamp(min=0), attention_mask=mask_UL.long(), use_cache=False
        ).last_hidden_state
        return (features_ULE * mask_UL[..., None])[index_B]


def pool_tokens(features_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean of the real tokens, ``(B, E)``; zeros for an empty instruction."""
    weights = mask_BL[..., None].to(features_BLE.dtype)
    return (features_BLE * weights).sum(1) / weights.sum(1).clamp(min=1)
