"""AtlasVLA, the model: views, state and instruction in, an action chunk out.

Shape suffixes: B batch, V view, P tokens per view, L words, S context, T chunk, A action, N state size, C backbone
width, D decoder width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .decoder import ActionDecoder, DecoderSpec
from .heads import L1Head
from .language import LanguageEncoder, LanguageSpec, pool_tokens
from .summary import VisualSummary
from .tokens import PolicyInputs, Prefix, TokenGroup
from .vggt import Aggregator


@dataclass(frozen=True)
class GeometrySpec:
    """Sizes of the VGGT aggregator and what is read from it.

    Attributes:
        patch_embed: One of ``vision.PATCH_EMBEDDERS``.
        patch_size: Pixels per patch side.
        embed_dim: Width C.
        depth: Frame/global pairs.
        num_heads: Attention heads.
        num_register_tokens: Register tokens per view.
        layer_scale_init: Start value of the layer scale: 0.01 in VGGT, larger to train a shallow one from scratch.
        output_layers: Pairs whose output (width 2C) becomes geometry tokens.
        keypoints: Keypoints per view in the visual summary.
        map_channels: Channels of the flattened map in the visual summary.
    """

    patch_embed: str
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    num_register_tokens: int
    layer_scale_init: float
    output_layers: tuple[int, ...]
    keypoints: int
    map_channels: int


class GeometryProjector(nn.Module):
    """Camera and patch tokens of the chosen layers to decoder width; register tokens are dropped.

    Args:
        num_layers: Aggregator layers read.
        backbone_dim: Width 2C of one aggregator output.
        dim: Decoder width D.
        views: Number of views V.
    """

    def __init__(self, num_layers: int, backbone_dim: int, dim: int, views: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(backbone_dim) for _ in range(num_layers))
        self.projections = nn.ModuleList(nn.Linear(backbone_dim, dim) for _ in range(num_layers))
        # VGGT tells only "first view" from "others"; a policy must tell the wrist from the scene camera.
        self.view_embed = nn.Parameter(torch.empty(1, views, 1, dim))
        nn.init.normal_(self.view_embed, std=0.02)

    def forward(self, layers: Sequence[Tensor], patch_start_idx: int) -> Tensor:
        """``(B, V, P, 2C)`` per layer to ``(B, V * (1 + patches), D)``, the sum over the layers."""
        total = self.view_embed
        for tokens_BVPC, norm, projection in zip(layers, self.norms, self.projections, strict=True):
            kept = torch.cat((tokens_BVPC[:, :, :1], tokens_BVPC[:, :, patch_start_idx:]), dim=2)
            total = total + projection(norm(kept))
        return total.flatten(1, 2)


class AtlasVLA(nn.Module):
    """The whole network; knows nothing of LeRobot.

    Args:
        geometry: The VGGT aggregator and what is read from it.
        language: The instruction encoder.
        decoder: The action decoder.
        image_size: (H, W) of every view in pixels.
        views: Number of views V.
        state_dim: Size N of the state.
        action_dim: Size A of an action.
        chunk_size: Actions T per forward pass.
    """

    def __init__(
        self,
        *,
        geometry: GeometrySpec,
        language: LanguageSpec,
        decoder: DecoderSpec,
        image_size: tuple[int, int],
        views: int,
        state_dim: int,
        action_dim: int,
        chunk_size: int,
    ):
        super().__init__()
        grid = (image_size[0] // geometry.patch_size, image_size[1] // geometry.patch_size)
        dim = decoder.hidden_size
        self.output_layers = geometry.output_layers
        self.aggregator = Aggregator(
            patch_embed=geometry.patch_embed,
            patch_size=geometry.patch_size,
            embed_dim=geometry.embed_dim,
            depth=geometry.depth,
            num_heads=geometry.num_heads,
            num_register_tokens=geometry.num_register_tokens,
            layer_scale_init=geometry.layer_scale_init,
            grid=grid,
        )
        self.geometry_projector = GeometryProjector(len(geometry.output_layers), 2 * geometry.embed_dim, dim, views)
        self.visual_summary = VisualSummary(
            geometry.embed_dim, grid, views, keypoints=geometry.keypoints, map_channels=geometry.map_channels
        )
        self.language = LanguageEncoder(language)
        self.language_projector = nn.Linear(language.hidden_size, dim)
        self.state_projector = nn.Linear(state_dim, dim)
        condition_dim = state_dim + dim + self.visual_summary.output_dim
        self.decoder = ActionDecoder(decoder, chunk_size=chunk_size, condition_dim=condition_dim)
        self.head = L1Head(dim, action_dim)

    def embed_prefix(self, inputs: PolicyInputs) -> Prefix:
        """Encode everything that does not depend on the actions."""
        aggregated = self.aggregator(inputs.views_BV3HW, self.output_layers)
        geometry_BSD = self.geometry_projector(aggregated.layers, aggregated.patch_start_idx)
        language_BLD = self.language_projector(self.language(inputs.tokens_BL, inputs.token_mask_BL))
        state_B1D = self.state_projector(inputs.state_BN)[:, None]
        context_mask = torch.cat((inputs.token_mask_BL, inputs.token_mask_BL.new_ones(len(state_B1D), 1)), dim=1)
        condition_BE = torch.cat(
            (
                inputs.state_BN,
                pool_tokens(language_BLD, inputs.token_mask_BL),
                self.visual_summary(aggregated.patch_tokens_BVPC),
            ),
            dim=-1,
        )
        return Prefix(
            geometry=TokenGroup(geometry_BSD),
            context=TokenGroup(torch.cat((language_BLD, state_B1D), dim=1), context_mask),
            condition_BE=condition_BE,
        )

    def decode(self, prefix: Prefix) -> Tensor:
        """Read the prefix with the action queries: ``(B, T, D)``."""
        return self.decoder(prefix)

    def loss(self, inputs: PolicyInputs, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        """Loss per sample, ``(B,)``; see :meth:`.heads.L1Head.loss`."""
        return self.head.loss(self.decode(self.embed_prefix(inputs)), actions_BTA, valid_BT)

    def sample(self, inputs: PolicyInputs) -> Tensor:
        """Predict a chunk of normalised actions, ``(B, T, A)``."""
        return self.head(self.decode(self.embed_prefix(inputs)))
