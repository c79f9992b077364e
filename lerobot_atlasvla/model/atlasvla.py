"""AtlasVLA, the model: views, state and instruction in, an action chunk out.

Shape suffixes: B batch, V view, P tokens per view, L language tokens, S context, T chunk, A action, N state size, C
backbone width, D decoder width.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

from .action_heads import FlowHead, L1Head
from .conditioning.landmarks import Landmarks
from .conditioning.scene_cameras import Placement
from .conditioning.spatial_softmax import SpatialSoftmax
from .decoder import ActionDecoder
from .frozen import frozen_forward
from .fusion import BlindFusion, EarlyFusion, Fused, LandmarkFusion, LateFusion
from .geometry.backbone import GeometryBackbone
from .geometry.da3 import DA3Encoder
from .geometry.record import HeadSizes
from .geometry.vggt import Aggregator
from .language import LanguageEncoder, pool_tokens
from .types import GeometryTokens, ModelInputs, Prefix, TokenGroup, Views
from .vision import Dinov2Tower, PatchTower


class AtlasVLA(nn.Module):
    """The whole network, with fresh weights; knows no key of a batch.

    The names of its parts are those of saved weights: a part that is renamed here no longer loads.

    Args:
        config: Sizes and choices, features and architectures filled in.
        without_weights: Keys of :meth:`backbones` whose parameters get no memory (PyTorch's meta device), because they
            are about to be replaced by released ones.
    """

    def __init__(self, config: AtlasVLAConfig, *, without_weights: Collection[str] = ()):
        super().__init__()

        def making(part: str) -> AbstractContextManager[Any]:
            return init_empty_weights() if part in without_weights else nullcontext()

        views, dim, state_dim = len(config.view_keys), config.decoder_hidden_size, config.state_dim
        height, width = config.image_size
        # Patches per (column, row).
        self.grid = height // config.patch_size, width // config.patch_size
        self.query_conditioning = config.query_conditioning
        # The geometry backbone, whichever it is.
        self.aggregator: GeometryBackbone | None = None
        self.geometry_part = config.geometry_backbone
        self.vision_tower: PatchTower | Dinov2Tower | None = None
        if views:
            with making(self.geometry_part):
                self.aggregator = make_geometry_backbone(config, self.grid)
            if config.vision == "patch":
                self.vision_tower = PatchTower(config.patch_size, config.vision_patch_dim, self.grid)
            elif config.vision == "dinov2":
                with making("vision_tower"):
                    self.vision_tower = Dinov2Tower(config.backbone_architectures["vision_tower"])
        with making("language"):
            self.language = LanguageEncoder(
                config.backbone_architectures["language"],
                cache_size=config.language_cache_size,
                on_cpu=config.language_on_cpu,
            )
        self.fusion: Any = self._fusion(config, views)
        # Where there is no state, a learned token stands in for it, so that the context is never empty.
        self.state_projector = nn.Linear(state_dim, dim) if state_dim else None
        self.no_state = None if state_dim else nn.Embedding(1, dim)
        self.visual_summary: SpatialSoftmax | None = None
        self.landmarks: Landmarks | None = None
        condition_dim = 0
        if config.query_conditioning != "none":
            condition_dim = state_dim + dim
            if config.reads_landmarks:
                self.landmarks = _landmarks(config, self.aggregator)
                condition_dim += self.landmarks.output_dim
            elif views:
                self.visual_summary = SpatialSoftmax(
                    dim,
                    self.grid,
                    views,
                    keypoints=config.summary_keypoints,
                    map_channels=config.summary_map_channels,
                )
                condition_dim += self.visual_summary.output_dim
        self.decoder = ActionDecoder(
            dim=dim,
            num_layers=config.decoder_num_layers,
            num_heads=config.decoder_num_heads,
            num_queries=config.num_action_queries or config.chunk_size,
            chunk_size=config.chunk_size,
            condition_dim=condition_dim,
            condition_hidden_dim=config.condition_hidden_size,
        )
        self.head: Any = _head(config)

    def _fusion(self, config: AtlasVLAConfig, views: int) -> LateFusion | EarlyFusion | BlindFusion:
        dim = config.decoder_hidden_size
        if self.aggregator is None:
            return BlindFusion(language_dim=self.language.hidden_size, dim=dim)
        if config.query_conditioning == "only_landmarks":
            return LandmarkFusion(language_dim=self.language.hidden_size, dim=dim, grid=self.grid)
        width = self.aggregator.embed_dim
        sizes = {
            "language_dim": self.language.hidden_size,
            "backbone_dim": width,
            "dim": dim,
            "grid": self.grid,
            "output_layers": config.geometry_layers,
            "views": views,
        }
        tower = self.vision_tower
        if config.fusion == "late":
            vision_dim = 0 if tower is None else tower.output_dim
            return LateFusion(vision_dim=vision_dim, points=config.reads_landmarks, **sizes)
        vision_dim = width if tower is None else tower.output_dim
        return EarlyFusion(vision_dim=vision_dim, num_heads=config.vggt_num_heads, **sizes)

    def backbones(self) -> dict[str, nn.Module]:
        """Return the parts that can come from a released checkpoint, by the name of their settings."""
        parts: dict[str, nn.Module] = {"language": self.language.backbone}
        if self.aggregator is not None:
            parts = {self.geometry_part: self.aggregator} | parts
        if isinstance(self.vision_tower, Dinov2Tower):
            parts["vision_tower"] = self.vision_tower.backbone
        return parts

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the backbones' activations in the backward pass instead of storing them."""
        if self.aggregator is not None:
            self.aggregator.gradient_checkpointing = True
        for module in (*self.backbones().values(), getattr(self.aggregator, "patch_embed", None)):
            if isinstance(module, PreTrainedModel):
                module.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def points_shape(self) -> tuple[int, int, int] | None:
        """Return views V, cells of a view Q and descriptor width E of the points; ``None`` if none are read."""
        if self.landmarks is None or self.aggregator is None:
            return None
        views, _, width = self.landmarks.prototypes_VKE.shape
        return views, self.grid[0] * self.grid[1] * self.aggregator.cells_per_patch, width

    def forward(
        self,
        images_BV3HW: Tensor | None,
        present: tuple[int, ...],
        state_BN: Tensor,
        language: TokenGroup,
        placement: Placement | None = None,
    ) -> Tensor:
        """Run the action path, from language features to decoded queries, ``(B, T, D)``; this is what gets compiled."""
        return self.decode(self.fuse(self._encode_images(images_BV3HW, present), language, state_BN, placement))

    def encode_language(self, inputs: ModelInputs) -> TokenGroup:
        """Encode the instructions; features are remembered while the language model is frozen."""
        with frozen_forward(self.language.backbone, inputs.tokens_BL):
            return self.language(inputs.tokens_BL, inputs.token_mask_BL)

    def encode_views(self, views: Views) -> GeometryTokens:
        """Encode what depends on the images alone; the feature cache reads the same from files."""
        return self._encode_images(views.images(), views.present)

    def _encode_images(self, images_BV3HW: Tensor | None, present: tuple[int, ...]) -> GeometryTokens:
        if images_BV3HW is None:
            return GeometryTokens((), ())
        return self.fusion.encode(self._patch_tokens(images_BV3HW), present, self.aggregator)

    def fuse(
        self, geometry: GeometryTokens, language: TokenGroup, state_BN: Tensor, placement: Placement | None = None
    ) -> Prefix:
        """Bring views, instruction and state to decoder width, and make the condition of the action queries.

        Args:
            geometry: What :meth:`encode_views` returned.
            language: What :meth:`encode_language` returned.
            state_BN: Normalized state.
            placement: Where the cameras are, as far as it is known; read by landmarks alone.
        """
        fused = self.fusion(geometry, language, self.aggregator)
        condition_BE = None
        if self.query_conditioning != "none":
            condition_BE = self._condition(fused, geometry, state_BN, placement)
        return Prefix(
            geometry=TokenGroup(fused.geometry_BVPD.flatten(1, 2)),
            context=self._with_state(fused.language, state_BN),
            condition_BE=condition_BE,
        )

    def decode(self, prefix: Prefix) -> Tensor:
        """Read the prefix with the action queries: ``(B, T, D)``."""
        return self.decoder(prefix)

    def _patch_tokens(self, images_BV3HW: Tensor) -> Tensor:
        """``(B, V, P, C)``, from the vision tower or the geometry backbone's own embedder."""
        tower = self.vision_tower
        if tower is None:
            assert self.aggregator is not None
            with frozen_forward(self.aggregator.patch_embed, images_BV3HW):
                return self.aggregator.embed(images_BV3HW)
        with frozen_forward(tower, images_BV3HW):
            return tower(images_BV3HW)

    def _condition(
        self, fused: Fused, geometry: GeometryTokens, state_BN: Tensor, placement: Placement | None
    ) -> Tensor:
        """State, pooled language and the views' keypoints or landmarks, side by side."""
        condition = [pool_tokens(fused.language)]
        if self.state_projector is not None:
            condition.insert(0, state_BN)
        if self.visual_summary is not None:
            # A camera token may come before the patches.
            patches_BVPD = fused.geometry_BVPD[:, :, -self.grid[0] * self.grid[1] :]
            condition.append(self.visual_summary(patches_BVPD, geometry.present))
        if self.landmarks is not None:
            assert geometry.points is not None  # the backbone was built with its heads
            # A statement of its own: a compiled model is cut in two here, and can't go on inside an expression.
            landmarks_BE = self.landmarks(geometry.points, placement)
            condition.append(landmarks_BE)
        return torch.cat(condition, dim=-1)

    def _with_state(self, language: TokenGroup, state_BN: Tensor) -> TokenGroup:
        """Language tokens followed by the state token."""
        language_BLD = language.tokens_BSD
        if self.state_projector is not None:
            state_B1D = self.state_projector(state_BN)[:, None]
        else:
            assert self.no_state is not None
            state_B1D = self.no_state.weight[None].expand(len(language_BLD), -1, -1)
        mask = language.mask_BS
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        return TokenGroup(torch.cat((language_BLD, state_B1D), dim=1), mask)


def make_geometry_backbone(config: AtlasVLAConfig, grid: tuple[int, int]) -> GeometryBackbone:
    """Make the geometry backbone of a configuration, with fresh weights.

    Args:
        config: Sizes and choices.
        grid: Patches per (column, row).
    """
    if config.geometry_backbone == "da3":
        return DA3Encoder(**config.backbone_architectures["da3"])
    entry = config.backbone_architectures.get("vggt", {})
    heads = entry.get("heads")
    return Aggregator(
        patch_embed=config.vggt_patch_embed if config.vision == "vggt" else None,
        patch_size=config.vggt_patch_size,
        embed_dim=config.vggt_embed_dim,
        depth=config.vggt_depth,
        num_heads=config.vggt_num_heads,
        num_register_tokens=config.vggt_num_register_tokens,
        layer_scale_init=config.vggt_layer_scale_init,
        has_blocks=config.vggt_blocks != "removed",
        grid=grid,
        special_tokens=config.fusion == "late",
        heads=None if heads is None else HeadSizes.of(heads, len(entry["views"])),
        own_heads=config.reads_landmarks and heads is None,
    )


def _landmarks(config: AtlasVLAConfig, backbone: GeometryBackbone | None) -> Landmarks:
    assert backbone is not None  # a blind policy was refused
    return Landmarks(
        len(config.view_keys),
        config.summary_keypoints,
        backbone.descriptor_dim,
        point_frame=backbone.point_frame,
        frame=config.landmark_frame,
        first_moves=config.first_view_moves,
        scale=config.landmark_scale,
        box=config.landmark_box,
        noise_m=config.landmark_noise,
        turn_deg=config.landmark_turn,
    )


def _head(config: AtlasVLAConfig) -> L1Head | FlowHead:
    dim, action_dim = config.decoder_hidden_size, config.action_dim
    if config.head == "l1":
        return L1Head(dim, action_dim)
    return FlowHead(
        dim,
        action_dim,
        num_layers=config.flow_num_layers,
        num_heads=config.decoder_num_heads,
        num_steps=config.flow_num_steps,
    )
