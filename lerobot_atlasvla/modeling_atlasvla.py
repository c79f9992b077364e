"""AtlasVLA as LeRobot sees it: keys, action queue, loss reduction, parameter groups. The network is in ``model/``."""

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from .byte_tokenizer import VOCAB_SIZE
from .configuration_atlasvla import AtlasVLAConfig
from .model.atlas import AtlasVLA, GeometrySpec
from .model.augment import random_shift
from .model.decoder import DecoderSpec
from .model.language import LanguageSpec
from .model.tokens import PolicyInputs

logger = logging.getLogger(__name__)

ACTION_IS_PAD = "action_is_pad"


def build_model(config: AtlasVLAConfig) -> AtlasVLA:
    """Build the network that a configuration describes, with fresh weights."""
    return AtlasVLA(
        geometry=GeometrySpec(
            patch_embed=config.vggt_patch_embed,
            patch_size=config.vggt_patch_size,
            embed_dim=config.vggt_embed_dim,
            depth=config.vggt_depth,
            num_heads=config.vggt_num_heads,
            num_register_tokens=config.vggt_num_register_tokens,
            layer_scale_init=config.vggt_layer_scale_init,
            output_layers=config.vggt_output_layers,
            keypoints=config.summary_keypoints,
            map_channels=config.summary_map_channels,
        ),
        language=LanguageSpec(
            vocab_size=VOCAB_SIZE,
            hidden_size=config.language_hidden_size,
            num_layers=config.language_num_layers,
            num_heads=config.language_num_heads,
            max_length=config.tokenizer_max_length,
        ),
        decoder=DecoderSpec(
            hidden_size=config.decoder_hidden_size,
            num_layers=config.decoder_num_layers,
            num_heads=config.decoder_num_heads,
            condition_hidden_size=config.condition_hidden_size,
        ),
        image_size=config.image_size,
        views=len(config.image_features),
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        chunk_size=config.chunk_size,
    )


class AtlasVLAPolicy(PreTrainedPolicy):
    """LeRobot policy around :class:`~.model.atlas.AtlasVLA`.

    Args:
        config: The configuration, with ``input_features`` and ``output_features`` filled in.
        from_checkpoint: The weights are about to be read from a checkpoint, so random ones need no warning.

    Raises:
        ValueError: If the features can't be read, or pretrained backbones are asked for (see the message).
    """

    # LeRobot declares these three wider than it uses them.
    config_class = AtlasVLAConfig  # pyrefly: ignore[bad-assignment]
    name = "atlasvla"  # pyrefly: ignore[bad-assignment]
    config: AtlasVLAConfig  # pyrefly: ignore[bad-override-mutable-attribute]

    def __init__(self, config: AtlasVLAConfig, *, from_checkpoint: bool = False, **kwargs: Any):
        super().__init__(config)
        config.validate_features()
        for part in ("vggt_init", "language_init"):
            if getattr(config, part) == "pretrained":
                raise ValueError(
                    f"{part}='pretrained': this version can't load pretrained weights yet. Train from scratch with "
                    f"--policy.{part}=random, best through --config_path=configs/policy/atlasvla_tiny.yaml."
                )
        self.model = build_model(config)
        if not from_checkpoint:
            logger.warning("AtlasVLA starts from RANDOM weights, as asked: vggt_init=random, language_init=random.")
        self.reset()

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a saved policy: a folder, or a Hub id. Arguments as in LeRobot."""
        return super().from_pretrained(pretrained_name_or_path, from_checkpoint=True, **kwargs)

    @classmethod
    def _load_as_safetensor(  # pyrefly: ignore[bad-override]
        cls, model: Self, model_file: str, map_location: str, strict: bool
    ) -> Self:
        # LeRobot loads with strict=False and only logs what is missing; a gap would leave random weights in place.
        return super()._load_as_safetensor(model, model_file, map_location, strict=True)

    def get_optim_params(self) -> list[dict[str, Any]]:  # pyrefly: ignore[bad-override]
        """Two groups, in a fixed order: tensors of two or more axes (decayed), then vectors and scalars (not)."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trainable if p.ndim >= 2]},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]

    def reset(self) -> None:
        """Forget the actions that were predicted but not executed; call it when an episode starts."""
        self._queues: dict[str, deque[Tensor]] = {ACTION: deque(maxlen=self.config.n_action_steps)}

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Loss on a batch of demonstrations.

        Args:
            batch: Preprocessed observations; ``action`` (B, chunk_size, A), normalised; ``action_is_pad``
                (B, chunk_size), True = past the end of the episode.
            reduction: ``"mean"`` for a scalar, ``"none"`` for one loss per sample, (B,).

        Returns:
            The loss, and scalars for the log.

        Raises:
            ValueError: For a missing or misshapen entry of the batch, or an unknown reduction.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}.")
        actions_BTA = self._entry(batch, ACTION)
        expected = (self.config.chunk_size, self.config.action_dim)
        if actions_BTA.ndim != 3 or tuple(actions_BTA.shape[1:]) != expected:
            raise ValueError(
                f"{ACTION} must have shape (B, {expected[0]}, {expected[1]}), got {tuple(actions_BTA.shape)} "
                "(--policy.chunk_size; the action size comes from the dataset)."
            )
        is_pad_BT = self._entry(batch, ACTION_IS_PAD)
        loss_B = self.model.loss(self._inputs(batch), actions_BTA, ~is_pad_BT)
        loss = loss_B.mean() if reduction == "mean" else loss_B
        return loss, {"l1_loss": loss_B.detach().mean().item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Predict normalised actions (B, chunk_size, A), float32, from preprocessed observations."""
        self.eval()
        with self._autocast():
            return self.model.sample(self._inputs(batch)).float()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Next normalised action (B, A); predicts a new chunk every ``n_action_steps`` calls."""
        queue = self._queues[ACTION]
        if not queue:
            chunk_BTA = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            queue.extend(chunk_BTA.transpose(0, 1))
        return queue.popleft()

    def _autocast(self) -> AbstractContextManager[Any]:
        """Training runs under accelerate's autocast; inference has to ask for its own."""
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(next(self.parameters()).device.type, dtype=getattr(torch, self.config.dtype))

    def _inputs(self, batch: dict[str, Tensor]) -> PolicyInputs:
        """Check the observations and bring them into the model's form."""
        state_BN = self._entry(batch, OBS_STATE)
        expected = self.config.state_dim
        if state_BN.ndim != 2 or state_BN.shape[1] != expected:
            raise ValueError(
                f"{OBS_STATE} must have shape (B, {expected}) as in training, got {tuple(state_BN.shape)}."
            )
        views = torch.stack([self._view(batch, key) for key in self.config.image_features], dim=1)
        if self.training and self.config.random_shift:
            views = random_shift(views.flatten(0, 1), self.config.random_shift).view_as(views)
        return PolicyInputs(
            views_BV3HW=views,
            state_BN=state_BN,
            tokens_BL=self._entry(batch, OBS_LANGUAGE_TOKENS),
            token_mask_BL=self._entry(batch, OBS_LANGUAGE_ATTENTION_MASK),
        )

    def _view(self, batch: dict[str, Tensor], key: str) -> Tensor:
        """One camera, (B, 3, H, W) in [0, 1], resized to ``image_size``."""
        image = self._entry(batch, key)
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"{key} must be float RGB of shape (B, 3, H, W) in [0, 1], got {image.dtype} of shape "
                f"{tuple(image.shape)}."
            )
        if tuple(image.shape[-2:]) == self.config.image_size:
            return image
        return F.interpolate(image, self.config.image_size, mode="bilinear", align_corners=False, antialias=True)

    def _entry(self, batch: dict[str, Tensor], key: str) -> Tensor:
        if key not in batch:
            raise ValueError(
                f"{key!r} is missing from the batch, which has {sorted(batch)}. Map other names with --rename_map, or "
                "for LIBERO cameras with --env.camera_name_mapping; for LIBERO's state use "
                "--env.obs_type=pixels_agent_pos."
            )
        return batch[key]
