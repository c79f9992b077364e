"""What an instruction encoder remembers: features by instruction, and the last batch as a whole.

Shape suffixes: B batch, L words, E language width.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .tokens import TokenGroup


class InstructionCache:
    """Features of the instructions used last; its length is their number.

    A rollout asks for the same batch of instructions at every chunk, so the last batch is kept beside them, assembled.
    To see that a batch is that one takes a single look at the device; to find its rows takes reading all token ids.

    Args:
        size: Most instructions to remember.
    """

    def __init__(self, size: int):
        self.size = size
        # How often a new instruction took the place of another.
        self.dropped = 0
        self._features: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        # Token ids, what else the features depend on, features. One object, because rollouts run in threads.
        self._batch: tuple[Tensor, Any, TokenGroup] | None = None

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()
        self._batch = None

    def lookup(self, row: tuple[int, ...], compute: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Features (L, E) of one instruction without padding, computed if they are not known."""
        features = self._features.pop(row, None)
        if features is None:
            features = compute(row)
        self._features[row] = features
        while len(self._features) > self.size:
            self._features.popitem(last=False)
            self.dropped += 1
        return features

    def keep_batch(self, keyed_BL: Tensor, circumstances: Any, group: TokenGroup) -> None:
        """Remember a batch in place of the last one.

        Args:
            keyed_BL: Token ids, padding -1.
            circumstances: What the features depend on besides; compared by value.
            group: The features; copied.
        """
        self._batch = (keyed_BL, circumstances, _copy(group))

    def same_batch(self, keyed_BL: Tensor, circumstances: Any) -> TokenGroup | None:
        """A copy of the last batch's features, if this is that batch."""
        if self._batch is None:
            return None
        known_BL, known_circumstances, group = self._batch
        comparable = (known_BL.dtype, known_BL.device) == (keyed_BL.dtype, keyed_BL.device)
        if not comparable or known_circumstances != circumstances or not torch.equal(known_BL, keyed_BL):
            return None
        return _copy(group)

    def forget_batch(self) -> None:
        """Forget the last batch, but not the instructions in it."""
        self._batch = None


def _copy(group: TokenGroup) -> TokenGroup:
    # What a caller does to its features must not reach the next one.
    return TokenGroup(group.tokens_BSD.detach().clone(), None if group.mask_BS is None else group.mask_BS.clone())
