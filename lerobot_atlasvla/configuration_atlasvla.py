"""The one configuration of AtlasVLA: every field and its meaning.

The defaults build the network of the preset ``atlasvla_libero``. Light on purpose (no torch model code, no
transformers): LeRobot imports it at every start.
"""

from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.constants import CONFIG_NAME
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from .files.replacing import replacing
from .policy.checks.config import DINOV2_PATCH_SIZE, ConfigError, check
from .policy.checks.landmarks import check_landmark_features, looks_like_wrist, take_former_conditioning
from .policy.checks.setting_types import Count, Number
from .policy.checks.types import check_types, shown
from .policy.columns import BLIND, names, select_columns, state_keys
from .policy.pretrained_geometry import local_record, take_defaults, take_sizes, unset

__all__ = ["AtlasVLAConfig", "ConfigError"]


@PreTrainedConfig.register_subclass("atlasvla")
@dataclass
class AtlasVLAConfig(PreTrainedConfig):
    """Holds all settings of an :class:`~.modeling_atlasvla.AtlasVLAPolicy` and of its training, and checks them.

    The comment above each field is what ``lerobot-train --policy.type=atlasvla --help`` prints. Complete recipes are in
    ``configs/policy``.

    Raises:
        ConfigError: For any value that can't work.
    """

    # Actions predicted by one forward pass (T).
    chunk_size: Count = 10
    # Actions executed before the next prediction; at most chunk_size.
    n_action_steps: Count = 10
    # l1: predict at every step and execute the average of all chunks that reach it, weighted by exp(-coeff x age in
    # chunks, oldest first): 0.01 as in ACT; above 0 older ones count more. Needs n_action_steps 1. Unset is off.
    temporal_ensemble_coeff: Number | None = None
    # LeRobot's normalization by feature type. Images stay in [0, 1]: the model scales them itself.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )
    # Cameras to look through, by name and in this order, such as [observation.images.image]. Empty: all of them. The
    # word none: a blind policy (state and instruction only), the control that says what images are worth.
    views: tuple[str, ...] = ()
    # Cameras observation.images.empty_camera_0, .._1 and so on, that data may have or not. An absent one has no tokens.
    empty_cameras: Count = 0
    # (height, width) in pixels to which every view is resized; multiples of the patch size.
    image_size: tuple[Count, Count] = field(default=unset((224, 224)))
    # Training only: shift each view by up to this many pixels, edges repeated. 0 switches it off, which landmarks want:
    # to a geometry backbone, a shifted image is a turned camera.
    random_shift: Count = 0
    # Training only: cut away up to this fraction of the side, the same window for all views of a sample. 0 is off.
    random_crop: Number = 0.0
    # Training only: change brightness, contrast and saturation by up to this factor, hue by a tenth of it, the same way
    # for all views of a sample. 0 is off.
    color_jitter: Number = 0.0
    # Whether the policy reads observation.state, or its parts observation.state.*, put together in the data's order.
    use_state: bool = True
    # Compute dtype of training and inference: float32 or bfloat16 (autocast).
    dtype: str = "float32"
    # Dtype of frozen backbones: auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16.
    backbone_dtype: str = "auto"

    # Where patch tokens come from: vggt (its own DINOv2), patch (a convolution from scratch) or dinov2 (vision_tower).
    # Or da3: Depth Anything 3 sees the images instead of VGGT; smaller, for any use, late fusion only.
    vision: str = "vggt"
    # Pixels per patch side where vision is patch.
    vision_patch_size: Count = 16
    # Width of the patch tokens where vision is patch.
    vision_patch_dim: Count = 768
    # DINOv2 tower where vision is dinov2: a Hub id, a local folder or a file.
    vision_tower: str = "facebook/dinov2-base"
    # Commit, tag or branch of the vision tower on the Hub; unset is its main branch.
    vision_tower_revision: str | None = None
    # Where the vision tower's weights come from: pretrained or random (by its architecture).
    vision_tower_init: str = "pretrained"
    # Keep the vision tower as it is; unset freezes pretrained weights and trains random ones.
    freeze_vision_tower: bool | None = None

    # VGGT's weights: a Hub id, a local folder or a file. facebook/VGGT-1B is for non-commercial use; the same network
    # for commercial use, on application, is facebook/VGGT-1B-Commercial. A backbone made by atlasvla-pretrain brings
    # its sizes with it: image_size, vggt_patch_size, vggt_embed_dim and so on need not be given.
    vggt_model: str = "facebook/VGGT-1B"
    # Commit, tag or branch of VGGT on the Hub; unset is its main branch.
    vggt_revision: str | None = None
    # Where the weights of the VGGT aggregator come from: pretrained, or random (train from scratch).
    vggt_init: str = "pretrained"
    # Keep VGGT as it is; unset freezes pretrained weights and trains random ones.
    freeze_vggt: bool | None = None
    # VGGT's patch embedder: dinov2_vitl14_reg (VGGT-1B), another dinov2_*_reg, conv, or conv_stem (from scratch).
    vggt_patch_embed: str = field(default=unset("dinov2_vitl14_reg"))
    # Pixels per patch side of VGGT's patch embedder.
    vggt_patch_size: Count = field(default=unset(14))
    # Width of the aggregator (C).
    vggt_embed_dim: Count = field(default=unset(1024))
    # Frame/global pairs of blocks; of a larger checkpoint, the first ones are taken.
    vggt_depth: Count = field(default=unset(24))
    # Attention heads of the aggregator.
    vggt_num_heads: Count = field(default=unset(16))
    # Register tokens per view.
    vggt_num_register_tokens: Count = field(default=unset(4))
    # Start value of the layer scale (VGGT: 0.01; shallow aggregators from scratch learn faster with more).
    vggt_layer_scale_init: Number = 0.01
    # Ablations of the frame and global blocks: normal, frozen (they stay as they start, whatever else of VGGT learns)
    # or removed (patch tokens pass unchanged).
    vggt_blocks: str = "normal"
    # Frame/global pairs whose output the decoder reads: a middle one and the last.
    vggt_output_layers: tuple[Count, ...] = field(default=unset((11, 23)))
    # Cameras in the roles of a backbone made by atlasvla-pretrain (wrist, scene), in its order, such as
    # [observation.images.hand, observation.images.front]. Empty: told by their names. VGGT-1B has no roles.
    vggt_views: tuple[str, ...] = ()

    # DA3's weights where vision is da3: a Hub id, a local folder or a file; DA3-SMALL or DA3-BASE, both Apache-2.0.
    da3_model: str = "depth-anything/DA3-SMALL"
    # Commit, tag or branch of DA3 on the Hub; unset is its main branch.
    da3_revision: str | None = None
    # Where the weights of DA3 come from: pretrained, or random (train from scratch).
    da3_init: str = "pretrained"
    # Keep DA3 as it is; unset freezes pretrained weights and trains random ones.
    freeze_da3: bool | None = None
    # Blocks whose output the decoder reads: the first in which views meet, and the last.
    da3_output_layers: tuple[Count, ...] = (5, 11)
    # Width of a DA3 that starts at random (SMALL: 384, BASE: 768); pretrained weights bring their own sizes.
    da3_embed_dim: Count = 384
    # Blocks of a DA3 that starts at random.
    da3_depth: Count = 12
    # Attention heads of a DA3 that starts at random.
    da3_num_heads: Count = 6

    # Language model: a Hub id, a local folder or a file beside its config.json and tokenizer. If the default cannot be
    # had, Qwen/Qwen2-0.5B takes its place, with a warning.
    language_model: str = "Qwen/Qwen3-0.6B-Base"
    # Commit, tag or branch of the language model on the Hub; unset is its main branch.
    language_revision: str | None = None
    # Where the weights of the language model come from: pretrained, or random (a small Qwen3 over bytes, from scratch).
    language_init: str = "pretrained"
    # Keep the language model as it is; unset freezes pretrained weights and trains random ones.
    freeze_language: bool | None = None
    # Most instructions whose features are remembered while the language model is frozen.
    language_cache_size: Count = 1024
    # Keep the frozen language model in host memory and compute there: saves a GPU its weights (1.2 GB), costs about a
    # second at the first sight of an instruction. Not for more instructions than are remembered, and not for FSDP.
    language_on_cpu: bool = False
    # Most tokens an instruction may have; longer ones are cut, with a warning.
    tokenizer_max_length: Count = 77
    # Width of a Qwen3 that starts at random.
    language_hidden_size: Count = 64
    # Blocks of a Qwen3 that starts at random.
    language_num_layers: Count = 2
    # Attention heads of a Qwen3 that starts at random.
    language_num_heads: Count = 4

    # late: VGGT sees images only and language joins at the decoder. early: language tokens go through VGGT's blocks.
    fusion: str = "late"
    # Width of the action decoder (D).
    decoder_hidden_size: Count = 768
    # Blocks of the action decoder.
    decoder_num_layers: Count = 4
    # Attention heads of the action decoder.
    decoder_num_heads: Count = 12
    # Action queries; 0 is one per action of the chunk. With another number, every action is a mixture of all queries.
    num_action_queries: Count = 0
    # What the action queries know from the start, beside state and language: keypoints (where each view's image shows
    # what, and a narrow map of it), landmarks (where in space; of VGGT's depth and camera heads), only_landmarks (and
    # the decoder sees nothing else of the views). none: not even state and language, the queries are only learned.
    query_conditioning: str = "keypoints"
    # Former name of --policy.query_conditioning, read for older checkpoints: true is keypoints, false is none.
    condition_queries: bool | None = None
    # Hidden width of the MLP through which the queries get it.
    condition_hidden_size: Count = 512
    # Keypoints or landmarks per view.
    summary_keypoints: Count = 32
    # Channels of the flattened patch map beside the keypoints.
    summary_map_channels: Count = 8
    # Where landmarks are: in first_view (the frame of the first camera of views) or base (the robot's, the frame in
    # which its state gives the end effector's pose; needs hand_eye).
    landmark_frame: str = "first_view"
    # Pose of the first camera in the end effector's frame: x, y, z (m), quaternion x, y, z, w; OpenCV axes. For states
    # that begin with the end effector's position (m) and rotation vector (rad), as LIBERO's. Empty: not known.
    hand_eye: tuple[Number, ...] = ()
    # Landmarks: meters per unit of the backbone's points. VGGT-1B's unit is its own (python -m eval.geometry_check).
    landmark_scale: Number = 1.0
    # Landmarks: what lies outside of this box does not count: lowest x, y, z, highest x, y, z (m). Empty: all counts.
    landmark_box: tuple[Number, ...] = ()
    # Landmarks, training only: shift the points of every camera that stands still at random, this standard deviation
    # per axis (m).
    landmark_noise: Number = 0.03
    # Standard deviation of their random turn about their middle in training, degrees about each axis.
    landmark_turn: Number = 0.0

    # Action head: l1 (the whole chunk at once) or flow (flow matching).
    head: str = "l1"
    # flow: denoising steps of one prediction.
    flow_num_steps: Count = 10
    # flow: blocks of the denoiser.
    flow_num_layers: Count = 2
    # flow: real-time chunking, as JSON: {"execution_horizon": 10, "max_guidance_weight": 10}. lerobot-rollout sets it.
    rtc_config: dict[str, Any] | None = None

    # Compile the action path (torch.compile): a slow first prediction, faster ones after it.
    compile_model: bool = False
    # Mode of torch.compile: default, reduce-overhead (CUDA graphs), max-autotune.
    compile_mode: str = "default"
    # --peft.*, default targets: adapt the language model's attention too, not only the last third of VGGT's blocks.
    peft_language: bool = False

    # Training: keep all actions of the data in memory and take the chunks from there. LeRobot's reader decodes the
    # images of every step of a chunk, 22 instead of 2 with chunks of 10 and two cameras stored as images.
    actions_in_memory: bool = False
    # Folder of frozen VGGT's or DA3's features of the training data, written by atlasvla-cache (same flags): training
    # reads them instead of running it. Fusion late, vision vggt or da3 only. Unset: no cache.
    feature_cache: str | None = None
    # Copies of every frame in it, each with its own augmentation; training takes one at random. 1 without augmentation.
    feature_cache_copies: Count = 1

    # Recompute activations of VGGT or DA3 and the language model in the backward pass: slower, much less memory.
    gradient_checkpointing: bool = False
    # Write frozen backbones into every checkpoint too. Otherwise a checkpoint refers to them by source and digest.
    save_full_weights: bool = False
    # No settings, so no flags: what a saved policy was built from. LeRobot saves nothing else beside an adapter.
    # Source, revision and digest of each pretrained part (weights/backbone_record.py).
    backbone_sources: dict[str, dict[str, str]] = field(default_factory=dict, init=False, repr=False)
    # Sizes of the language model and the vision tower, under transformers' names, and of DA3.
    backbone_architectures: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    # AdamW: peak learning rate.
    optimizer_lr: Number = 1e-4
    # AdamW: peak learning rate of pretrained backbones that are not frozen.
    optimizer_backbone_lr: Number = 1e-5
    # AdamW: beta 1 and 2.
    optimizer_betas: tuple[Number, Number] = (0.9, 0.95)
    # AdamW: weight decay of matrices (biases, norms and gates are never decayed).
    optimizer_weight_decay: Number = 1e-2
    # Gradients are clipped to this norm.
    optimizer_grad_clip_norm: Number = 1.0
    # Steps of linear warm-up; a cosine then falls to zero at --steps.
    scheduler_warmup_steps: Count = 500

    def __post_init__(self) -> None:
        # draccus hands names over letter by letter (names).
        for name in ("views", "vggt_views"):
            if isinstance(value := getattr(self, name), str):
                setattr(self, name, tuple(value))
        # No setting: the names of those that were left at defaults which a backbone with a record replaces.
        self.unset_fields = take_defaults(self)
        check_types(self)
        try:
            super().__post_init__()
        except ValueError as error:
            raise ConfigError(
                f"device can't be {shown(self.device)}: {shown(str(error))} (--policy.device)."
            ) from error
        self.image_size = tuple(self.image_size)
        self.vggt_output_layers = tuple(self.vggt_output_layers)
        self.da3_output_layers = tuple(self.da3_output_layers)
        self.views, self.vggt_views = names(self.views), names(self.vggt_views)
        self.hand_eye, self.landmark_box = tuple(self.hand_eye), tuple(self.landmark_box)
        take_former_conditioning(self)
        if (record := local_record(self)) and (problem := take_sizes(self, record)):
            raise ConfigError(problem)
        check(self)
        # Equal settings are saved as equal bytes.
        self.normalization_mapping = dict(sorted(self.normalization_mapping.items()))

    @property
    def patch_size(self) -> int:
        """Return the pixels per patch side of the vision tower in use."""
        sizes = {"vggt": self.vggt_patch_size, "patch": self.vision_patch_size}
        return sizes.get(self.vision, DINOV2_PATCH_SIZE)

    @property
    def geometry_backbone(self) -> str:
        """Return the part that makes geometry tokens of the views, ``vggt`` or ``da3``."""
        return "da3" if self.vision == "da3" else "vggt"

    @property
    def geometry_dim(self) -> int:
        """Return its width C; that of pretrained DA3 only once its weights were found."""
        da3 = self.backbone_architectures.get("da3", {})
        return {"vggt": self.vggt_embed_dim, "da3": da3.get("embed_dim", 0)}[self.geometry_backbone]

    @property
    def geometry_layers(self) -> tuple[int, ...]:
        """Return the layers of it that the decoder reads; none where it gets landmarks only."""
        if self.query_conditioning == "only_landmarks":
            return ()
        return getattr(self, f"{self.geometry_backbone}_output_layers")

    def _save_pretrained(self, save_directory: Path) -> None:
        # How one training run got its data is not the policy; whoever loads the checkpoint has other data, or none.
        saved = copy(self)
        saved.actions_in_memory, saved.feature_cache, saved.feature_cache_copies = False, None, 1
        with replacing(save_directory / CONFIG_NAME) as scratch:
            super(AtlasVLAConfig, saved)._save_pretrained(scratch.parent)

    def is_frozen(self, part: str) -> bool:
        """Return whether a part, such as ``vggt`` or ``language``, keeps its weights: as asked, else if pretrained."""
        asked: bool | None = getattr(self, f"freeze_{part}")
        return getattr(self, f"{part}_init") == "pretrained" if asked is None else asked

    def validate_features(self, dataset: Any | None = None) -> None:
        """Check that the data can be read: the named views (or at least one camera), a flat state, a flat action.

        Features that the policy does not read are dropped, so that nobody has to provide them.

        Args:
            dataset: LeRobot's metadata of the dataset that the policy is made for, if there is one.

        Raises:
            ValueError: Naming the feature that is missing or has another shape, and all columns of the data.
        """
        select_columns(self, dataset)
        check_landmark_features(self)

    @property
    def empty_camera_keys(self) -> tuple[str, ...]:
        """Return the cameras that data may have or not."""
        return tuple(f"{OBS_IMAGES}.empty_camera_{index}" for index in range(self.empty_cameras))

    @property
    def is_blind(self) -> bool:
        """Return whether no pixel enters the network."""
        return self.views == BLIND

    @property
    def view_keys(self) -> tuple[str, ...]:
        """Return the cameras the policy looks through, in its fixed order; none for a blind policy."""
        return () if self.is_blind else self.views or tuple(self.image_features)

    @property
    def reads_landmarks(self) -> bool:
        """Return whether the action queries get 3-D landmarks of the views."""
        return self.query_conditioning in ("landmarks", "only_landmarks")

    @property
    def first_view_moves(self) -> bool:
        """Return whether the first camera moves with the hand, by the calibration or by its name."""
        return bool(self.hand_eye) or (bool(self.view_keys) and looks_like_wrist(self.view_keys[0]))

    @property
    def state_dim(self) -> int:
        """Return the size N of the state, 0 if it is not used; only after the features are known."""
        if not self.use_state:
            return 0
        if not self.state_keys:
            raise ValueError(f"{OBS_STATE!r} is not among the input features.")
        return sum((self.input_features or {})[key].shape[0] for key in self.state_keys)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Return the key of the state, or those of its parts in the order in which they make one state."""
        return state_keys(self.input_features or {})

    @property
    def action_dim(self) -> int:
        """Return the size A of an action; only after the features are known."""
        if self.action_feature is None:
            raise ValueError(f"{ACTION!r} is not among the output features.")
        return self.action_feature.shape[0]

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return AdamW with this config's ``optimizer_*`` values."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        """Return linear warm-up, then a cosine that ends at zero with the last training step."""
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def observation_delta_indices(self) -> None:
        """Return None: one observation, no history."""

    @property
    def action_delta_indices(self) -> list[int] | None:
        """Return the actions of a chunk, relative to the current step; None if LeRobot need not read them."""
        return None if self.actions_in_memory else list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """Return None: rewards are not used."""
