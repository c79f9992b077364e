"""The objects that cross the border between the policy (LeRobot's keys) and the model (tensors).

Shape suffixes: B batch, V view, H height, W width, P patches per view, C backbone width, N state size, L language
tokens, S context, D decoder width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from .geometry.points import PointMap


@dataclass(frozen=True)
class Views:
    """The camera images of a batch. They are resized and augmented only when a vision encoder asks for :meth:`images`.

    Attributes:
        cameras: RGB in [0, 1], one ``(B, 3, H, W)`` per view, each of its own size: the views that are there, in the
            policy's fixed order. A blind policy has none.
        present: Their places in that order; a camera that is deliberately absent is missing here.
        transform: Makes one ``(B, V, 3, H, W)`` of the cameras, at the model's size.
        augmented: Whether ``transform`` also augments at random, which it does in training only.
        frames_B: Indices of the samples in the dataset; ``None`` for observations of no dataset.
    """

    cameras: tuple[Tensor, ...]
    present: tuple[int, ...]
    transform: Callable[[Sequence[Tensor]], Tensor]
    augmented: bool = False
    frames_B: Tensor | None = None

    def images(self) -> Tensor | None:
        """Return the images at the model's size, ``(B, V, 3, H, W)`` in [0, 1]; ``None`` without cameras."""
        return self.transform(self.cameras) if self.cameras else None

    def samples(self, places: Tensor) -> Self:
        """Return the samples at some places of the batch."""
        return replace(
            self,
            cameras=tuple(camera[places.to(camera.device)] for camera in self.cameras),
            frames_B=None if self.frames_B is None else self.frames_B[places.to(self.frames_B.device)],
        )


@dataclass(frozen=True)
class GeometryTokens:
    """Features of the views. They depend on the images alone, so those of a frozen vision encoder can be cached.

    Attributes:
        layers: Late fusion: per layer of the geometry backbone that is read, the camera token, then the patch tokens,
            ``(B, V, 1 + P, 2C)``. Early fusion, whose frame and global blocks read the instruction too: the patch
            tokens that go into them, ``(B, V, P, C)``. Empty for a blind policy.
        present: As in :class:`Views`.
        points: What the backbone's heads tell of the scene; ``None`` unless landmarks are read from it.
    """

    layers: tuple[Tensor, ...]
    present: tuple[int, ...]
    points: PointMap | None = None


@dataclass(frozen=True)
class ModelInputs:
    """One batch of observations, normalized, keys forgotten.

    Attributes:
        views: The camera images.
        state_BN: Normalized ``observation.state``.
        tokens_BL: Token ids of the instruction.
        token_mask_BL: True = real token, False = padding.
        first_to_base_B34: Pose of the first view's camera in the robot base's frame; ``None`` where it is not known.
    """

    views: Views
    state_BN: Tensor
    tokens_BL: Tensor
    token_mask_BL: Tensor
    first_to_base_B34: Tensor | None = None


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
        """Return the same group with S padded to ``length`` on the right; a longer one as it is."""
        lacking = length - self.tokens_BSD.shape[1]
        if lacking <= 0:
            return self
        mask_BS = self.tokens_BSD.new_ones(self.tokens_BSD.shape[:2], dtype=torch.bool)
        if self.mask_BS is not None:
            mask_BS = self.mask_BS
        return type(self)(F.pad(self.tokens_BSD, (0, 0, 0, lacking)), F.pad(mask_BS, (0, lacking)))


@dataclass(frozen=True)
class Prefix:
    """Hold everything the decoder attends to.

    Attributes:
        geometry: Camera and patch tokens of all views, after the frame and global blocks.
        context: Language tokens followed by the state token.
        condition_BE: What the action queries are conditioned on: state, pooled language and the views' keypoints or
            landmarks; ``None`` for queries that are only learned.
    """

    geometry: TokenGroup
    context: TokenGroup
    condition_BE: Tensor | None
