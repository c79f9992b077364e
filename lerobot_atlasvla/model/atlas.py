"""AtlasVLA, the model: views, state and instruction in, an action chunk out.

Shape suffixes: B batch, V view, P tokens per view, L words, S context, T chunk, A action, N state size, C backbone
width, D decoder width.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from .decoder import ActionDecoder
from .frozen import running
from .fusion import BlindFusion, EarlyFusion, Fused, LateFusion
from .heads import FlowHead, L1Head
from .language import LanguageEncoder, pool_tokens
from .spec import AtlasSpec
from .summary import VisualSummary
from .tokens import GeometryTokens, PolicyInputs, Prefix, TokenGroup
from .vggt import Aggregator
from .vision import Dinov2Tower, PatchTower


class AtlasVLA(nn.Module):
    """The whole network; knows nothing of LeRobot.

    Args:
        spec: What to build.
        without_weights: Keys of :meth:`backbones` whose parameters get no memory (PyTorch's meta device), because they
            are about to be replaced by released ones.
    """

    def __init__(self, spec: AtlasSpec, *, without_weights: Collection[str] = ()):
        super().__init__()

        def making(part: str) -> AbstractContextManager[Any]:
            return init_empty_weights() if part in without_weights else nullcontext()

        self.spec = spec
        vision, dim = spec.vision, spec.decoder.hidden_size
        self.grid = spec.grid
        self.aggregator: Aggregator | None = None
        self.vision_tower: PatchTower | Dinov2Tower | None = None
        if spec.views:
            with making("vggt"):
                self.aggregator = self._make_aggregator(spec)
            if vision.kind == "patch":
                self.vision_tower = PatchTower(vision.patch_size, vision.patch_dim, self.grid)
            elif vision.kind == "dinov2":
                with making("vision_tower"):
                    self.vision_tower = Dinov2Tower(vision.architecture)
        with making("language"):
            words = spec.language
            self.language = LanguageEncoder(words.architecture, cache_size=words.cache_size, on_cpu=words.on_cpu)
        self.fusion: Any = self._make_fusion(spec)
        # Where there is no state, a learned token stands in for it, so that the context is never empty.
        self.state_projector = nn.Linear(spec.state_dim, dim) if spec.state_dim else None
        self.no_state = None if spec.state_dim else nn.Embedding(1, dim)
        self.visual_summary: VisualSummary | None = None
        condition_dim = 0
        if spec.condition_queries:
            condition_dim = spec.state_dim + dim
            if spec.views:
                sizes = spec.summary
                self.visual_summary = VisualSummary(
                    dim, self.grid, spec.views, keypoints=sizes.keypoints, map_channels=sizes.map_channels
                )
                condition_dim += self.visual_summary.output_dim
        self.decoder = ActionDecoder(spec.decoder, chunk_size=spec.chunk_size, condition_dim=condition_dim)
        self.head: Any
        if spec.head.kind == "l1":
            self.head = L1Head(dim, spec.action_dim)
        else:
            self.head = FlowHead(
                dim, spec.action_dim, num_layers=spec.head.flow_num_layers, num_heads=spec.decoder.num_heads
            )

    @staticmethod
    def _make_aggregator(spec: AtlasSpec) -> Aggregator:
        geometry = spec.geometry
        return Aggregator(
            patch_embed=geometry.patch_embed if spec.vision.kind == "vggt" else None,
            patch_size=geometry.patch_size,
            embed_dim=geometry.embed_dim,
            depth=geometry.depth,
            num_heads=geometry.num_heads,
            num_register_tokens=geometry.num_register_tokens,
            layer_scale_init=geometry.layer_scale_init,
            has_blocks=geometry.has_blocks,
            grid=spec.grid,
            special_tokens=spec.fusion == "late",
        )

    def _make_fusion(self, spec: AtlasSpec) -> LateFusion | EarlyFusion | BlindFusion:
        geometry, dim = spec.geometry, spec.decoder.hidden_size
        if not spec.views:
            return BlindFusion(language_dim=self.language.hidden_size, dim=dim)
        sizes = {
            "language_dim": self.language.hidden_size,
            "backbone_dim": geometry.embed_dim,
            "dim": dim,
            "num_layers": len(geometry.output_layers),
            "views": spec.views,
        }
        tower = self.vision_tower
        if spec.fusion == "late":
            return LateFusion(vision_dim=0 if tower is None else tower.output_dim, **sizes)
        vision_dim = geometry.embed_dim if tower is None else tower.output_dim
        return EarlyFusion(vision_dim=vision_dim, num_heads=geometry.num_heads, **sizes)

    def backbones(self) -> dict[str, nn.Module]:
        """The parts that can come from a released checkpoint, by the name of their settings."""
        parts: dict[str, nn.Module] = {"language": self.language.backbone}
        if self.aggregator is not None:
            parts = {"vggt": self.aggregator} | parts
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

    def forward(self, views_BV3HW: Tensor, present: tuple[int, ...], state_BN: Tensor, words: TokenGroup) -> Tensor:
        """The action path: everything from encoded words to decoded queries, ``(B, T, D)``; what gets compiled."""
        return self.decode(self.embed(views_BV3HW, present, state_BN, words))

    def embed_prefix(self, inputs: PolicyInputs) -> Prefix:
        """Encode everything that does not depend on the actions."""
        return self.embed(inputs.views, inputs.present, inputs.state_BN, self.encode_language(inputs))

    def encode_language(self, inputs: PolicyInputs) -> TokenGroup:
        """Features of the instructions; remembered while the language model is frozen."""
        with running(self.language.backbone, inputs.tokens_BL):
            return self.language(inputs.tokens_BL, inputs.token_mask_BL)

    def encode_views(self, views_BV3HW: Tensor) -> GeometryTokens:
        """Views through the frame and global blocks (late fusion), for use in place of the views.

        Raises:
            ValueError: With early fusion, whose blocks read the instruction too, and for a blind policy.
        """
        if self.spec.fusion != "late" or self.aggregator is None:
            raise ValueError("Only policies with late fusion and views have geometry tokens without an instruction.")
        vision_BVPC = self._patch_tokens(views_BV3HW)
        return self.fusion.encode(self.aggregator, vision_BVPC, self.grid, self.spec.geometry.output_layers)

    def embed(
        self, views: Tensor | GeometryTokens, present: tuple[int, ...], state_BN: Tensor, words: TokenGroup
    ) -> Prefix:
        """As :meth:`embed_prefix`, language encoded already."""
        fused = self._fuse(views, present, words)
        geometry = TokenGroup(fused.geometry_BVPD.flatten(1, 2))
        context = self._with_state(fused.language, state_BN)
        if not self.spec.condition_queries:
            return Prefix(geometry, context, None)
        condition = [pool_tokens(fused.language)]
        if self.state_projector is not None:
            condition.insert(0, state_BN)
        if self.visual_summary is not None:
            # A camera token may come before the patches.
            patches_BVPD = fused.geometry_BVPD[:, :, -self.grid[0] * self.grid[1] :]
            condition.append(self.visual_summary(patches_BVPD, present))
        return Prefix(geometry, context, torch.cat(condition, dim=-1))

    def _fuse(self, views: Tensor | GeometryTokens, present: tuple[int, ...], words: TokenGroup) -> Fused:
        # By settings, not by class: PEFT puts a wrapper around a fusion that it trains.
        if not self.spec.views:
            return self.fusion(words)
        if self.spec.fusion == "late":
            geometry = views if isinstance(views, GeometryTokens) else self.encode_views(views)
            return self.fusion(geometry, words, present)
        assert isinstance(views, Tensor)
        layers = self.spec.geometry.output_layers
        return self.fusion(self.aggregator, self._patch_tokens(views), words, self.grid, layers, present)

    def _patch_tokens(self, views_BV3HW: Tensor) -> Tensor:
        """``(B, V, P, C)``, from the vision tower or VGGT's own embedder."""
        tower = self.vision_tower
        if tower is None:
            assert self.aggregator is not None
            with running(self.aggregator.patch_embed, views_BV3HW):
                return self.aggregator.embed(views_BV3HW)
        with running(tower, views_BV3HW):
            return tower(views_BV3HW)

    def decode(self, prefix: Prefix) -> Tensor:
        """Read the prefix with the action queries: ``(B, T, D)``."""
        return self.decoder(prefix)

    def loss(
        self,
        inputs: PolicyInputs,
        actions_BTA: Tensor,
        valid_BT: Tensor,
        noise_BTA: Tensor | None = None,
        time_B: Tensor | None = None,
    ) -> Tensor:
        """Loss per sample, ``(B,)``; see the heads. Noise and time are for the flow head, and only for it."""
        decoded = self.decode(self.embed_prefix(inputs))
        # By name, not by class: PEFT puts a wrapper around heads that it trains.
        if self.spec.head.kind == "l1":
            return self.head.loss(decoded, actions_BTA, valid_BT)
        if noise_BTA is None or time_B is None:
            raise ValueError("The flow head's loss needs noise_BTA and time_B.")
        return self.head.loss(decoded, actions_BTA, valid_BT, noise_BTA, time_B)

    def _with_state(self, language: TokenGroup, state_BN: Tensor) -> TokenGroup:
        """Language tokens followed by the state token."""
        words_BLD = language.tokens_BSD
        if self.state_projector is not None:
            state_B1D = self.state_projector(state_BN)[:, None]
        else:
            assert self.no_state is not None
            state_B1D = self.no_state.weight[None].expand(len(words_BLD), -1, -1)
        mask = language.mask_BS
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        return TokenGroup(torch.cat((words_BLD, state_B1D), dim=1), mask)
