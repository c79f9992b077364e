"""AtlasVLA as LeRobot sees it: keys, action queue, loss reduction, groups, files. The network is in ``model/``."""

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from lerobot.policies.common.flow_matching import euler_integrate, sample_noise, sample_time_beta
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from . import backbones, slim
from .build import build_model
from .configuration_atlasvla import AtlasVLAConfig
from .model.augment import random_shift
from .model.frozen import freeze, is_frozen
from .model.heads import L1Head
from .model.tokens import PolicyInputs

logger = logging.getLogger(__name__)

ACTION_IS_PAD = "action_is_pad"


class AtlasVLAPolicy(PreTrainedPolicy):
    """LeRobot policy around :class:`~.model.atlas.AtlasVLA`.

    Args:
        config: The configuration, with ``input_features`` and ``output_features`` filled in. What the backbones were
            filled from is recorded in it.
        from_checkpoint: The weights are about to be read from a checkpoint: nothing is read from the backbones'
            sources here, and random weights need no warning.

    Raises:
        ValueError: If the features can't be read, or a backbone's weights can't be had (see the message).
    """

    # LeRobot declares these three wider than it uses them.
    config_class = AtlasVLAConfig  # pyrefly: ignore[bad-assignment]
    name = "atlasvla"  # pyrefly: ignore[bad-assignment]
    config: AtlasVLAConfig  # pyrefly: ignore[bad-override-mutable-attribute]

    def __init__(self, config: AtlasVLAConfig, *, from_checkpoint: bool = False, **kwargs: Any):
        super().__init__(config)
        config.validate_features()
        pretrained = backbones.pretrained_parts(config)
        located = {} if from_checkpoint else {part: backbones.find(config, part) for part in pretrained}
        config.backbone_architectures = backbones.architectures(config, located)
        self.model = build_model(config, without_weights=pretrained)
        # Part -> checksum of its weights as they came from the source.
        self._as_read: dict[str, str] = {}
        for part, where in located.items():
            report = backbones.read(config, part, self.model.backbones()[part], where)
            backbones.record(config, part, where, report)
            self._remember(part)
        if not from_checkpoint:
            self._announce_random_parts()
            self._finish()
        self.reset()

    def _announce_random_parts(self) -> None:
        random = [
            part for part in backbones.used_parts(self.config) if getattr(self.config, f"{part}_init") == "random"
        ]
        if random:
            asked = ", ".join(f"{part}_init=random" for part in random)
            logger.warning("AtlasVLA starts from RANDOM weights, as asked: %s.", asked)

    def _finish(self) -> None:
        """What needs all weights in place."""
        for part, module in self.model.backbones().items():
            if self.config.is_frozen(part):
                freeze(module)
        if self.config.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        self.eval()

    def _remember(self, part: str) -> None:
        if self.config.is_frozen(part):
            self._as_read[part] = slim.fingerprint(self.model.backbones()[part])

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a saved policy: a folder, or a Hub id. Arguments as in LeRobot.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit its configuration, or a backbone it refers to is
                missing or another one.
        """
        return super().from_pretrained(pretrained_name_or_path, from_checkpoint=True, **kwargs)

    @classmethod
    def _load_as_safetensor(  # pyrefly: ignore[bad-override]
        cls, model: Self, model_file: str, map_location: str, strict: bool
    ) -> Self:
        # LeRobot loads with strict=False and only logs what is missing; a gap would leave random weights in place.
        model._load(Path(model_file))
        return model

    def _load(self, file: Path) -> None:
        parts = self.model.backbones()
        pretrained = backbones.pretrained_parts(self.config)
        prefixes = slim.prefixes(self, {part: parts[part] for part in pretrained})
        tensors, referred = slim.load(self, file, prefixes)
        for part in pretrained:
            prefix = prefixes[part]
            if part in referred:
                backbones.read_again(self.config, part, parts[part])
                self._remember(part)
            else:
                inside = {
                    name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)
                }
                backbones.fill(parts[part], inside, backbones.part_dtype(self.config, part))
        self.load_state_dict(tensors, strict=False)  # slim.load has checked the names.
        self._finish()

    def _save_pretrained(  # pyrefly: ignore[bad-override]
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        parts = self.model.backbones()
        unchanged = [part for part, mark in self._as_read.items() if slim.fingerprint(parts[part]) == mark]
        for part in self._as_read.keys() - set(unchanged):
            logger.warning("The frozen %s is not what its source gave any more, so the checkpoint includes it.", part)
        references = [] if self.config.save_full_weights else unchanged
        self.config._save_pretrained(save_directory)
        slim.save(
            self.state_dict() if state_dict is None else state_dict,
            Path(save_directory) / SAFETENSORS_SINGLE_FILE,
            references=slim.prefixes(self, {part: parts[part] for part in references}),
        )

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but frozen backbones stay in eval mode."""
        super().train(mode)
        for module in self.model.backbones().values():
            if is_frozen(module):
                module.eval()
        return self

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
        valid_BT = ~self._entry(batch, ACTION_IS_PAD)
        inputs = self._inputs(batch)
        if self.config.head == "flow":
            noise = sample_noise(actions_BTA.shape, actions_BTA.device)
            # The distribution of openpi: times near 1 (noise) come up most, times near 0 least.
            time = sample_time_beta(len(noise), noise.device, alpha=1.5, beta=1.0, scale=0.999, offset=0.001)
            loss_B = self.model.loss(inputs, actions_BTA, valid_BT, noise, time)
        else:
            loss_B = self.model.loss(inputs, actions_BTA, valid_BT)
        loss = loss_B.mean() if reduction == "mean" else loss_B
        return loss, {f"{self.config.head}_loss": loss_B.detach().mean().item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Predict normalised actions (B, chunk_size, A), float32, from preprocessed observations.

        Args:
            batch: Preprocessed observations.
            noise: Where the flow head starts, (B, chunk_size, A); drawn if not given. The l1 head uses none.
            **kwargs: Ignored.
        """
        self.eval()
        with self._autocast():
            decoded_BTD = self.model.decode(self.model.embed_prefix(self._inputs(batch)))
            head = self.model.head
            if isinstance(head, L1Head):
                return head(decoded_BTD).float()
            if noise is None:
                shape = (len(decoded_BTD), self.config.chunk_size, self.config.action_dim)
                noise = sample_noise(shape, decoded_BTD.device)
            return euler_integrate(
                lambda x_BTA, time_B: head.velocity(decoded_BTD, x_BTA, time_B),
                noise,
                self.config.flow_num_steps,
            )

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
        views = self.views(batch)
        return PolicyInputs(
            views_BV3HW=views,
            state_BN=self._state(batch) if self.config.use_state else views.new_zeros(len(views), 0),
            tokens_BL=self._entry(batch, OBS_LANGUAGE_TOKENS),
            token_mask_BL=self._entry(batch, OBS_LANGUAGE_ATTENTION_MASK),
        )

    def views(self, batch: dict[str, Tensor]) -> Tensor:
        """The cameras of a batch as the model sees them, (B, V, 3, H, W) in [0, 1]; shifted at random in training.

        Raises:
            ValueError: For a camera that is missing or not RGB in [0, 1].
        """
        views = torch.stack([self._view(batch, key) for key in self.config.view_keys], dim=1)
        if self.training and self.config.random_shift:
            views = random_shift(views.flatten(0, 1), self.config.random_shift).view_as(views)
        return views

    def _state(self, batch: dict[str, Tensor]) -> Tensor:
        state_BN = self._entry(batch, OBS_STATE)
        expected = self.config.state_dim
        if state_BN.ndim != 2 or state_BN.shape[1] != expected:
            raise ValueError(
                f"{OBS_STATE} must have shape (B, {expected}) as in training, got {tuple(state_BN.shape)}."
            )
        return state_BN

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
