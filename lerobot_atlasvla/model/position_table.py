"""DINOv2's position table at the size of the images, interpolated once while the table does not learn."""

from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings


def remember_positions(model: Dinov2Model | Dinov2WithRegistersModel) -> None:
    """Let a DINOv2 keep the position table that it interpolated last; its weights and outputs stay what they were.

    The released table is for 37 x 37 patches. At 224 pixels, interpolating it (bicubic, antialiased, 1024 channels)
    costs as much as a transformer block.
    """
    kinds = {Dinov2Embeddings: _Dinov2, Dinov2WithRegistersEmbeddings: _Dinov2WithRegisters}
    embeddings: Any = model.embeddings
    # Not a new module in its place: that would draw random weights, and all that are drawn after it would be others.
    embeddings.__class__ = kinds[type(embeddings)]


class _Remembering:
    """Mixin for transformers' embeddings."""

    position_embeddings: Any
    # What the table was made of, and the table. Not a buffer: it is no state, and a cast must not touch it.
    _known: tuple[tuple[Any, ...], Tensor] | None = None

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """As in transformers, which reads nothing of ``embeddings`` but its shape."""
        table = self.position_embeddings
        interpolate = super().interpolate_pos_encoding  # pyrefly: ignore[missing-attribute]
        if table.requires_grad or torch.compiler.is_compiling():
            return interpolate(embeddings, height, width)
        version = 0 if table.is_inference() else table._version
        made_of = (id(table), version, table.data_ptr(), table.dtype, embeddings.shape[1], height, width)
        if self._known is None or self._known[0] != made_of:
            # Made in a rollout, used in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._known = made_of, interpolate(embeddings, height, width)
        return self._known[1]


class _Dinov2(_Remembering, Dinov2Embeddings):
    pass


class _Dinov2WithRegisters(_Remembering, Dinov2WithRegistersEmbeddings):
    pass
