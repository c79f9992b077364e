"""The two objects that cross the border between the policy (LeRobot's keys) and the model (tensors).

Shape suffixes: B batch, V view, H height, W width, P patches per view, C backbone width, N state size, L words,
S context, D decoder width.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor


@dataclass(frozen=True)
class GeometryTokens:
    """The views after the frame and global blocks: the only form in which late fusion lets images reach the decoder.

    While the backbone is frozen they depend on the images alone, and can be cached.

    Attributes:
        layers_BVPC: Per aggregator layer that is read: the camera token, then the patch tokens, ``(B, V, 1 + P, 2C)``.
    """

    layers_BVPC: tuple[Tensor, ...]


@dataclass(frozen=True)
class PolicyInputs:
    """One batch of observations, resized and normalised, keys forgotten.

    Attributes:
        views: RGB in [0, 1], ``(B, V, 3, H, W)``, the views that are there, in the policy's fixed camera order (none
            for a blind policy); or their geometry tokens.
        present: Their places in that order; a camera that is deliberately absent is missing here.
        state_BN: Normalised ``observation.state``.
        tokens_BL: Token ids of the instruction.
        token_mask_BL: True = real token, False = padding.
    """

    views: Tensor | GeometryTokens
    present: tuple[int, ...]
    state_BN: Tensor
    tokens_BL: Tensor
    token_mask_BL: Tensor


@dataclass(frozen=True)
class TokenGroup:
    """Tokens of one origin in decoder width.

    Attributes:
        tokens_BSD: The tokens.
        mask_BS: True = real token; ``None`` means that all are real.
    """

    tokens_BSD: Tensor
    mask_BS: Tensor | None = None

    def padded_to(self, length: int) -> Self:
        """The same group, S made ``length`` by padding on the right; a longer one is returned as it is."""
        lacking = length - self.tokens_BSD.shape[1]
        if lacking <= 0:
            return self
        mask_BS = self.tokens_BSD.new_ones(self.tokens_BSD.shape[:2], dtype=torch.bool)
        if self.mask_BS is not None:
            mask_BS = self.mask_BS
        return type(self)(F.pad(self.tokens_BSD, (0, 0, 0, lacking)), F.pad(mask_BS, (0, lacking)))


@dataclass(frozen=True)
class Prefix:
    """Everything the decoder may look at.

    Attributes:
        geometry: Camera and patch tokens of all views, after the frame and global blocks.
        context: Language tokens followed by the state token.
        condition_BE: What the action queries are conditioned on: state, pooled language and the visual summary of
            ``geometry``; ``None`` for queries that are only learned.
    """

    geometry: TokenGroup
    context: TokenGroup
    condition_BE: Tensor | None
