"""Put a backbone and its heads together for pretraining, with a reading of colors that is not kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lerobot_atlasvla.model.geometry.point_heads import PointHeads, ScenePoints
from lerobot_atlasvla.model.geometry.record import GeometryRecord
from lerobot_atlasvla.model.geometry.vggt import Aggregator
from lerobot_atlasvla.weights.vggt_state_dict import AGGREGATOR_PREFIX, HEADS_PREFIX, to_vggt

# VGGT's 1e-6 lets a small aggregator learn late.
_TOKEN_STD = 0.02


class PretrainingNetwork(nn.Module):
    """Backbone, heads, and a linear reading of each cell's color from its descriptor.

    Args:
        record: The backbone's architecture, heads included.
    """

    def __init__(self, record: GeometryRecord):
        super().__init__()
        height, width = record.image_size
        self.grid = height // record.patch_size, width // record.patch_size
        self.backbone = Aggregator(
            patch_embed=record.patch_embed,
            patch_size=record.patch_size,
            embed_dim=record.embed_dim,
            depth=record.depth,
            num_heads=record.num_heads,
            num_register_tokens=record.num_register_tokens,
            grid=self.grid,
            layer_scale_init=1.0,
            heads=record.heads,
        )
        for token in (self.backbone.camera_token, self.backbone.register_token):
            nn.init.normal_(token, std=_TOKEN_STD)
        # What a thing looks like must be in its descriptor, whatever else is needed to match it.
        self.color = nn.Linear(self.backbone.descriptor_dim, 3)

    def forward(self, images_BV3HW: Tensor) -> tuple[ScenePoints, Tensor]:
        """Return what the heads say of images in [0, 1], and the colors of the cells, ``(B, V, Q, 3)``."""
        heads = self.backbone.point_heads
        assert isinstance(heads, PointHeads)
        found = heads(self.backbone(images_BV3HW, self.backbone.point_layers).layers[-1], self.grid)
        return found, self.color(found.descriptors_BVQE)

    def released(self) -> dict[str, Tensor]:
        """Return the backbone's tensors under the names of its file: VGGT's, and those of the heads."""
        named = to_vggt(self.backbone.state_dict())
        return {
            name if name.startswith(HEADS_PREFIX) else AGGREGATOR_PREFIX + name: tensor.detach().cpu().contiguous()
            for name, tensor in named.items()
        }

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.color.weight.device
