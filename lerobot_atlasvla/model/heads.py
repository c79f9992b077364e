"""Action heads: decoded queries to an action chunk, and the loss against demonstrations.

Shape suffixes: B batch, T chunk, A action, D decoder width.
"""

from torch import Tensor, nn


class L1Head(nn.Module):
    """All actions of the chunk at once, trained with the mean absolute error.

    Source: parallel decoding with an L1 objective, Kim et al., OpenVLA-OFT, RSS 2025, arXiv:2502.19645, sec. IV.
    """

    def __init__(self, dim: int, action_dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, action_dim)

    def forward(self, decoded_BTD: Tensor) -> Tensor:
        """``(B, T, D)`` to normalised actions ``(B, T, A)``."""
        return self.proj(decoded_BTD)

    def loss(self, decoded_BTD: Tensor, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        """Mean absolute error per sample over its real actions, ``(B,)``; padded actions never count.

        Args:
            decoded_BTD: The decoder's output.
            actions_BTA: Normalised demonstrated actions.
            valid_BT: True = a real action, False = padding past the end of the episode.
        """
        error_BT = (self(decoded_BTD).float() - actions_BTA.float()).abs().mean(-1)
        valid = valid_BT.to(error_BT.dtype)
        # `where` and not a product: a NaN in a padded action must not reach the sum.
        return error_BT.where(valid_BT, 0.0).sum(1) / valid.sum(1).clamp(min=1)
