"""AtlasVLA as LeRobot sees it: keys, action queue, loss reduction, groups, files. The network is in ``model/``."""

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import ModelCard
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from .configuration_atlasvla import AtlasVLAConfig
from .files import safetensors_files
from .inputs import environments, prepare
from .model.atlasvla import AtlasVLA
from .model.conditioning.scene_cameras import Placement, SceneCameras
from .model.frozen import is_frozen
from .model.sizes.memory import check_fits_memory
from .policy import rtc
from .policy.action_queues import ActionQueues
from .policy.checks.landmarks import check_others_stand_still
from .policy.checks.values import check_finite_actions, check_finite_loss
from .policy.columns import note_image_sizes
from .policy.pipelines.files import check_pipelines
from .policy.pipelines.saved import check_instruction_length, check_saved_pipelines
from .policy.pretrained_geometry import order_views
from .training import tensorboard
from .training.action_chunks import ActionChunks
from .training.dataset_checks import prepare_metadata
from .training.feature_cache.reader import FeatureCache, open_cache
from .training.parameter_groups import parameter_groups
from .training.step_rng import StepRng
from .weights import backbones, checkpoint, model_card, peft
from .weights.backbone_record import BackboneRecord

logger = logging.getLogger(__name__)


class AtlasVLAPolicy(PreTrainedPolicy):
    """Predicts a robot's actions from camera images, its state and an instruction: AtlasVLA as a policy of LeRobot.

    Args:
        config: The configuration, with ``input_features`` and ``output_features`` filled in.
        from_checkpoint: The weights are about to be read from a checkpoint: nothing is read from the backbones'
            sources here, and random weights need no warning.
        dataset_meta: LeRobot's metadata of the data to train on, if that is what the policy is made for: it opens the
            feature cache, if there is one, and gives the actions that are kept in memory.

    Raises:
        ValueError: If the features can't be read, the data have a number that is not finite, the network does not fit
            into memory, a backbone's weights can't be had, or the feature cache is missing or of something else.
    """

    # LeRobot declares these three wider than it uses them.
    config_class = AtlasVLAConfig  # pyrefly: ignore[bad-assignment]
    name = "atlasvla"  # pyrefly: ignore[bad-assignment]
    config: AtlasVLAConfig  # pyrefly: ignore[bad-override-mutable-attribute]
    # Read by LeRobot's next version. Class names of what FSDP gathers as one unit: every transformer block.
    _fsdp_wrap_modules: ClassVar[list[str]] = [
        "Block",
        "DecoderBlock",
        "DenoiserBlock",
        "Dinov2Layer",
        "Dinov2WithRegistersLayer",
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
    ]
    _fsdp_forward_methods: ClassVar[list[str]] = ["predict_action_chunk", "select_action"]

    def __init__(
        self, config: AtlasVLAConfig, *, from_checkpoint: bool = False, dataset_meta: Any = None, **kwargs: Any
    ):
        super().__init__(config)
        config.validate_features(dataset_meta)
        if dataset_meta is not None:
            prepare_metadata(config, dataset_meta)
        pretrained = backbones.pretrained_parts(config)
        resolved = {} if from_checkpoint else {part: backbones.resolve(config, part) for part in pretrained}
        backbones.take_sizes(config, resolved)
        # Like the features, what the network is rebuilt from: without it, a checkpoint would need its sources' files.
        config.backbone_architectures = backbones.architectures(config, resolved)
        backbones.check_points(config)
        order_views(config)
        check_others_stand_still(config)
        check_fits_memory(config, without=pretrained)
        self.model = AtlasVLA(config, without_weights=pretrained)
        self._prepare()
        # Saved weights hold its name.
        self.randomness = StepRng()
        self.backbone_record = BackboneRecord(config)
        self.action_chunks = ActionChunks(config, dataset_meta)
        self.feature_cache: FeatureCache | None = None
        # Whether weights of a checkpoint were left out, or replaced by fresh ones, to fit other data.
        self.departs_from_checkpoint = False
        if not from_checkpoint:
            for part, weights in resolved.items():
                self.backbone_record.load(part, self.model.backbones()[part], weights)
            self.backbone_record.note_in(config)
            backbones.announce_random(config)
            self.feature_cache = open_cache(self)
        self.eval()
        tensorboard.install()
        safetensors_files.install()  # LeRobot writes the rest of a checkpoint
        # PEFT writes this name down as an adapter's base.
        self.name_or_path = peft.FROM_CONFIG
        self.backbone_record.make_releasable(self.model.language)
        self._thread_queues = ActionQueues.make()
        self.rtc_processor: Any = None
        self.init_rtc_processor()

    def _prepare(self) -> None:
        """Freeze, cast and set up the network; its weights may come later."""
        backbones.freeze_parts(self.config, self.model)
        if self.config.language_on_cpu:
            # Read by DistributedDataParallel, which otherwise refuses weights on two kinds of devices.
            names = [name for name, _ in self.model.language.named_parameters(prefix="model.language")]
            names += [name for name, _ in self.model.language.named_buffers(prefix="model.language")]
            self._ddp_params_and_buffers_to_ignore = names
        if self.config.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if self.config.compile_model:
            self.model.compile(mode=self.config.compile_mode)

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a saved policy: a folder, or a Hub id. Arguments as in LeRobot.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit its configuration, a backbone it refers to is
                missing or another one, or one of its pipelines names code to run or can't work.
        """
        config = kwargs.get("config")
        if config is not None and config.use_peft and config.pretrained_path:
            # An adapter's folder has the pipelines; what is loaded here is its base.
            check_pipelines(config.pretrained_path, revision=config.pretrained_revision)
        if str(pretrained_name_or_path) == peft.FROM_CONFIG:
            policy = cls._from_sources(kwargs.get("config"), kwargs.get("dataset_meta"))
        else:
            peft.check_whole(pretrained_name_or_path)
            if kwargs.get("config") is None:
                kwargs["config"] = checkpoint.read_config(pretrained_name_or_path, **kwargs)
            policy = super().from_pretrained(pretrained_name_or_path, from_checkpoint=True, **kwargs)
            # LeRobot builds the pipelines next, which runs the code that they name.
            check_pipelines(pretrained_name_or_path, **kwargs)
            check_saved_pipelines(pretrained_name_or_path, **kwargs)
            if kwargs.get("dataset_meta") is not None:
                check_instruction_length(pretrained_name_or_path, policy.config.tokenizer_max_length, **kwargs)
            policy.name_or_path = str(pretrained_name_or_path)
        policy.feature_cache = open_cache(policy)
        return policy

    @classmethod
    def _from_sources(cls, config: AtlasVLAConfig | None, dataset_meta: Any) -> Self:
        """Build the base of an adapter that was trained without a checkpoint; the adapter brings all other layers."""
        if config is None:
            raise ValueError(peft.NEEDS_CONFIG)
        policy = cls(config, from_checkpoint=True, dataset_meta=dataset_meta)
        for part in backbones.pretrained_parts(config):
            policy.backbone_record.load_from_checkpoint(part, policy.model.backbones()[part])
        return policy.to(config.device)

    def _get_default_peft_targets(self) -> dict[str, Any]:
        return peft.default_targets(self.config, self.model)

    def _validate_peft_config(self, peft_config: Any) -> None:
        if self.departs_from_checkpoint:
            raise ValueError(
                f"An adapter is saved without its base, and {self.name_or_path} does not fit this dataset's cameras, "
                "states or actions as it is. Train without --peft first, and adapt that checkpoint with --policy.path."
            )
        # LeRobot's own check refuses to adapt anything but a checkpoint.
        if not self.config.pretrained_path and self.name_or_path == peft.FROM_CONFIG:
            peft.check_rebuildable(self, self.config, self.model, peft_config.modules_to_save or ())

    @classmethod
    def _load_as_safetensor(  # pyrefly: ignore[bad-override]
        cls, model: Self, model_file: str, map_location: str, strict: bool
    ) -> Self:
        # LeRobot loads with strict=False and only logs what is missing; a gap would leave random weights in place.
        checkpoint.load(model, Path(model_file))
        return model

    def _save_pretrained(  # pyrefly: ignore[bad-override]
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        state = self.state_dict() if state_dict is None else state_dict
        peft.check_unwrapped(state)
        # What is written here is a whole policy: an adapter that was in it has been merged.
        self.config.use_peft = False
        checkpoint.save(self, Path(save_directory), state)

    def generate_model_card(
        self,
        dataset_repo_id: str,
        model_type: str,
        license: str | None,
        tags: list[str] | None,
        cfg: Any = None,
        dataset_meta: Any = None,
        report: Path | None = None,
    ) -> ModelCard:
        """Write the README.md of a pushed checkpoint; arguments as in LeRobot, and ``report`` (:mod:`.model_card`)."""
        # Adapters change the names that a fingerprint is made of, and bring no backbone anyway.
        whole = self.config.save_full_weights or self.config.use_peft
        return model_card.make(
            self.config,
            sources=self.backbone_record.sources,
            referred=[] if whole else self.backbone_record.unchanged(self.model.backbones()),
            dataset=dataset_repo_id,
            license=license,
            tags=tags,
            training=cfg,
            dataset_meta=dataset_meta,
            report=report,
        )

    def train(self, mode: bool = True) -> Self:
        """Switch the mode as in PyTorch, but keep frozen backbones in eval mode."""
        super().train(mode)
        for module in self.model.backbones().values():
            if is_frozen(module):
                module.eval()
        return self

    def get_optim_params(self) -> list[dict[str, Any]]:  # pyrefly: ignore[bad-override]
        """Return the parameters that learn, in groups (:func:`~.training.parameter_groups.parameter_groups`)."""
        return parameter_groups(self)

    def reset(self) -> None:
        """Forget this thread's actions that were predicted but not executed, and where its cameras stood.

        Call it when an episode starts.
        """
        self._thread_queues.reset(self.config)

    @property
    def _queues(self) -> dict[str, deque[Tensor]]:
        """Return this thread's queues. LeRobot looks for this name when it drops queued actions."""
        return self._thread_queues.by_name(self.config)

    def forward(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        time: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss on a batch of demonstrations.

        Args:
            batch: Preprocessed observations; ``action`` (B, chunk_size, A), normalized; ``action_is_pad``
                (B, chunk_size), True = past the end of the episode. With ``actions_in_memory``: ``action`` (B, A) and
                ``index`` (B,).
            noise: Flow head: standard normal, (B, chunk_size, A); drawn if not given. The l1 head uses none.
            time: Flow head: how much of it, (B,) in [0, 1], 1 = all noise; drawn if not given.
            reduction: ``"mean"`` for a scalar, ``"none"`` for one loss per sample, (B,).

        Returns:
            The loss, and scalars for the log.

        Raises:
            ValueError: For a missing or misshapen entry of the batch, images outside [0, 1] (looked at in the first
                batch), a loss that is not finite, or an unknown reduction.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}.")
        actions_BTA, valid_BT = self.action_chunks.of(batch)
        inputs = prepare(self.config, batch, training=self.training)
        if self.training and self.action_chunks.meta is not None:
            note_image_sizes(self.config, batch, self.action_chunks.meta)
        self._thread_queues.check_images(self.config, batch)
        encode_views = (self.feature_cache or self.model).encode_views
        with self.randomness.step(actions_BTA.device, training=self.training), self._autocast():
            geometry = encode_views(inputs.views)
            # Frames of many episodes: each for itself.
            placement = Placement(inputs.first_to_base_B34)
            prefix = self.model.fuse(geometry, self.model.encode_language(inputs), inputs.state_BN, placement)
            loss_B = self.model.head.loss(self.model.decode(prefix), actions_BTA, valid_BT, noise, time)
        loss = loss_B.mean() if reduction == "mean" else loss_B
        mean = loss_B.detach().mean().item()
        check_finite_loss(mean, self.config, batch, self)
        return loss, {f"{self.config.head}_loss": mean}

    # LeRobot's rollout compiles this method; what is worth compiling is compiled inside it (compile_model), once.
    @torch.compiler.disable
    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        *,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        cameras: SceneCameras | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Predict normalized actions (B, chunk_size, A), float32, from preprocessed observations.

        A policy with landmarks takes the batch as the next frame of the episode that :meth:`reset` has started.

        Args:
            batch: Preprocessed observations.
            noise: Where the flow head starts, (B, chunk_size, A); drawn if not given. The l1 head uses none.
            inference_delay: Real-time chunking: steps of the previous chunk that will be executed meanwhile.
            prev_chunk_left_over: Real-time chunking: what is left of the previous chunk, normalized, (T', A) for one
                environment, (B, T', A) for several.
            execution_horizon: Real-time chunking: steps over which the old chunk fades out; by default rtc_config's.
            cameras: Landmarks: where the cameras of the episode have stood so far; by default this thread's episode.
            **kwargs: Ignored.

        Raises:
            ValueError: For an unreadable batch, images outside [0, 1] (looked at once per episode), actions that would
                not be finite, real-time chunking with a head that can't do it, or the rest of another number of chunks
                than there are environments.
        """
        if self.training:  # Setting a mode walks through all modules.
            self.eval()
        if prev_chunk_left_over is not None:
            if not self.model.head.can_be_guided:
                raise ValueError(rtc.NEEDS_FLOW)
            prev_chunk_left_over = rtc.left_over_of(prev_chunk_left_over, environments(batch), self.config.chunk_size)
        guidance = {
            "rtc_processor": self.rtc_processor,
            "rtc_enabled": self._rtc_enabled(),
            "inference_delay": inference_delay or 0,
            "prev_chunk_left_over": prev_chunk_left_over,
            "execution_horizon": execution_horizon,
        }
        inputs = prepare(self.config, batch, training=False)
        self._thread_queues.check_images(self.config, batch)
        with self._autocast():
            language = self.model.encode_language(inputs)
            if self.config.compile_model:
                # One shape for all instructions: a longer one must not compile everything again.
                language = language.padded_to(self.config.tokenizer_max_length)
            placement = None
            if self.config.reads_landmarks:
                placement = Placement(inputs.first_to_base_B34, cameras or self._thread_queues.cameras)
            decoded_BTD = self.model(inputs.views.images(), inputs.views.present, inputs.state_BN, language, placement)
            actions_BTA = self.model.head.sample(decoded_BTD, noise, guidance=guidance)
        check_finite_actions(actions_BTA, self.config, batch, self)
        return actions_BTA

    def supports_rtc(self) -> bool:
        """Return whether real-time chunking works with this policy's head; if not, log which one it needs."""
        if not self.model.head.can_be_guided:
            logger.error(rtc.NEEDS_FLOW)
        return self.model.head.can_be_guided

    def init_rtc_processor(self) -> None:
        """Read ``config.rtc_config`` (again); LeRobot's rollout calls this after it has set it.

        Raises:
            ValueError: If it names or holds what LeRobot's RTCConfig does not.
        """
        self.rtc_processor = rtc.make_processor(self.config.rtc_config)

    def _rtc_enabled(self) -> bool:
        return self.rtc_processor is not None and self.rtc_processor.rtc_config.enabled

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Return the next normalized action (B, A); predicts a new chunk every ``n_action_steps`` calls.

        With ``temporal_ensemble_coeff`` it predicts at every call, and returns the average of all chunks since
        :meth:`reset` that reach this step.

        With another number of environments than at the last call, nobody knows whose the queued actions are: they are
        dropped, and every environment gets a chunk that was predicted from what it sees now.

        Raises:
            ValueError: For an unreadable batch, or while real-time chunking is on.
        """
        if self._rtc_enabled():
            raise ValueError(rtc.NOT_STEP_BY_STEP)
        if self.config.temporal_ensemble_coeff is not None:
            chunk_BTA = self.predict_action_chunk(batch)
            return self._thread_queues.ensemble_of(self.config, len(chunk_BTA)).next_action(chunk_BTA)
        queue = self._thread_queues.of_environments(self.config, environments(batch))
        if not queue:
            chunk_BTA = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            queue.extend(chunk_BTA.transpose(0, 1))
        return queue.popleft()

    def _autocast(self) -> AbstractContextManager[Any]:
        """``dtype`` for whatever learns. LeRobot 0.6.1 trains under the same autocast; nothing else asks for it."""
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.model.decoder.queries.queries.device.type, dtype=getattr(torch, self.config.dtype))
