"""The one configuration of AtlasVLA: every field, its meaning, and every check that needs no data.

Light on purpose (no torch model code, no transformers): LeRobot imports it at every start.
"""

from dataclasses import dataclass, field

from draccus.utils import DecodingError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig
from lerobot.utils.constants import ACTION, OBS_STATE

DTYPES = ("float32", "bfloat16")


class ConfigError(DecodingError):
    """A setting that can't work; the message names it, its value, what is allowed and the flag.

    Not a ValueError: draccus answers those with "Couldn't instantiate class AtlasVLAConfig" and drops their message;
    its own errors it lets through to LeRobot's command line.
    """

    def __init__(self, message: str):
        super().__init__((), message)


@PreTrainedConfig.register_subclass("atlasvla")
@dataclass
class AtlasVLAConfig(PreTrainedConfig):
    """Configuration of :class:`~.modeling_atlasvla.AtlasVLAPolicy`.

    The comment above each field is what ``lerobot-train --policy.type=atlasvla --help`` prints. Complete recipes are in
    ``configs/policy``.

    Raises:
        ConfigError: For any value that can't work.
    """

    # Actions predicted by one forward pass (T).
    chunk_size: int = 10
    # Actions executed before the next prediction; at most chunk_size.
    n_action_steps: int = 10
    # LeRobot's normalisation by feature type. Images stay in [0, 1]: the model scales them itself.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )
    # (height, width) in pixels to which every view is resized; multiples of vggt_patch_size.
    image_size: tuple[int, int] = (224, 224)
    # Training only: shift each view by up to this many pixels, edges repeated. 0 switches it off.
    random_shift: int = 0
    # Compute dtype of training and inference: float32 or bfloat16 (autocast).
    dtype: str = "float32"

    # Where the weights of the VGGT aggregator come from: pretrained, or random (train from scratch).
    vggt_init: str = "pretrained"
    # Patch embedder: dinov2_vitl14_reg (VGGT-1B), another dinov2_*_reg, conv, or conv_stem (small, from scratch).
    vggt_patch_embed: str = "dinov2_vitl14_reg"
    # Pixels per patch side.
    vggt_patch_size: int = 14
    # Width of the aggregator (C).
    vggt_embed_dim: int = 1024
    # Frame/global pairs of blocks.
    vggt_depth: int = 24
    # Attention heads of the aggregator.
    vggt_num_heads: int = 16
    # Register tokens per view.
    vggt_num_register_tokens: int = 4
    # Start value of the layer scale (VGGT: 0.01; shallow aggregators from scratch learn faster with more).
    vggt_layer_scale_init: float = 0.01
    # Frame/global pairs whose output the decoder reads: a middle one and the last.
    vggt_output_layers: tuple[int, ...] = (11, 23)

    # Where the weights of the language model come from: pretrained, or random (a small Qwen3 over bytes, from scratch).
    language_init: str = "pretrained"
    # Most tokens an instruction may have; longer ones are cut, with a warning.
    tokenizer_max_length: int = 77
    # Width of a Qwen3 that starts at random.
    language_hidden_size: int = 64
    # Blocks of a Qwen3 that starts at random.
    language_num_layers: int = 2
    # Attention heads of a Qwen3 that starts at random.
    language_num_heads: int = 4

    # Width of the action decoder (D).
    decoder_hidden_size: int = 768
    # Blocks of the action decoder.
    decoder_num_layers: int = 6
    # Attention heads of the action decoder.
    decoder_num_heads: int = 12
    # Hidden width of the MLP through which state, language and the visual summary condition the action queries.
    condition_hidden_size: int = 512
    # Keypoints per view (spatial softmax) in the visual summary.
    summary_keypoints: int = 32
    # Channels of the flattened patch map in the visual summary.
    summary_map_channels: int = 16

    # AdamW: peak learning rate.
    optimizer_lr: float = 1e-4
    # AdamW: beta 1 and 2.
    optimizer_betas: tuple[float, float] = (0.9, 0.95)
    # AdamW: weight decay of matrices (biases, norms and gates are never decayed).
    optimizer_weight_decay: float = 1e-2
    # Gradients are clipped to this norm.
    optimizer_grad_clip_norm: float = 1.0
    # Steps of linear warm-up; a cosine then falls to zero at --steps.
    scheduler_warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_size = tuple(self.image_size)
        self.vggt_output_layers = tuple(self.vggt_output_layers)
        self._check_chunk()
        self._check_images()
        self._check_sizes()

    def _check_chunk(self) -> None:
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, got {self.chunk_size} (--policy.chunk_size).")
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ConfigError(
                f"n_action_steps must lie in 1 .. chunk_size = {self.chunk_size}, got {self.n_action_steps} "
                "(--policy.n_action_steps, --policy.chunk_size)."
            )
        if self.n_obs_steps != 1:
            raise ConfigError(
                f"AtlasVLA reads one observation; got n_obs_steps {self.n_obs_steps} (--policy.n_obs_steps)."
            )

    def _check_images(self) -> None:
        patch = self.vggt_patch_size
        if len(self.image_size) != 2 or any(side < patch or side % patch for side in self.image_size):
            nearest = [max(patch, round(side / patch) * patch) for side in self.image_size[:2]]
            raise ConfigError(
                f"image_size must be (height, width), both multiples of the patch size {patch}, got "
                f"{self.image_size}; nearest allowed: {nearest} (--policy.image_size, --policy.vggt_patch_size)."
            )
        if not 0 <= self.random_shift < min(self.image_size):
            raise ConfigError(
                f"random_shift must lie in 0 .. {min(self.image_size) - 1} pixels, got {self.random_shift} "
                "(--policy.random_shift)."
            )

    def _check_sizes(self) -> None:
        for name in ("vggt_init", "language_init"):
            if getattr(self, name) not in ("pretrained", "random"):
                raise ConfigError(
                    f"{name} must be 'pretrained' or 'random', got {getattr(self, name)!r} (--policy.{name})."
                )
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r} (--policy.dtype).")
        head_unit = {"vggt_embed_dim": 4, "language_hidden_size": 2, "decoder_hidden_size": 1}
        for width_name, unit in head_unit.items():
            heads_name = width_name.rsplit("_", 2)[0] + "_num_heads"
            width, heads = getattr(self, width_name), getattr(self, heads_name)
            if heads < 1 or width < 1 or width % (heads * unit):
                raise ConfigError(
                    f"{width_name} must be a multiple of {unit} x {heads_name} = {unit * heads}, got {width} "
                    f"(--policy.{width_name}, --policy.{heads_name})."
                )
        layers = self.vggt_output_layers
        if (
            not layers
            or any(not 0 <= layer < self.vggt_depth for layer in layers)
            or list(layers) != sorted(set(layers))
        ):
            raise ConfigError(
                f"vggt_output_layers must be ascending layers in 0 .. {self.vggt_depth - 1}, got {layers} "
                "(--policy.vggt_output_layers, --policy.vggt_depth)."
            )
        for name in (
            "vggt_num_register_tokens",
            "language_num_layers",
            "decoder_num_layers",
            "condition_hidden_size",
            "summary_keypoints",
            "summary_map_channels",
            "tokenizer_max_length",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)} (--policy.{name}).")

    def validate_features(self) -> None:
        """Check that the data can be read: at least one RGB camera, a flat state and a flat action.

        Raises:
            ValueError: Naming the feature that is missing or has another shape.
        """
        found = sorted(self.input_features or {})
        if not self.image_features:
            raise ValueError(f"AtlasVLA needs at least one camera (observation.images.*); the data have {found}.")
        for key, feature in self.image_features.items():
            if len(feature.shape) != 3 or feature.shape[0] != 3:
                raise ValueError(f"{key} must be an RGB image of shape (3, H, W), got {tuple(feature.shape)}.")
        state = self.robot_state_feature
        if state is None or len(state.shape) != 1:
            shape = None if state is None else tuple(state.shape)
            raise ValueError(
                f"AtlasVLA needs {OBS_STATE!r} of shape (N,), got {shape}; the data have {found}. "
                "For LIBERO environments use --env.obs_type=pixels_agent_pos."
            )
        action = self.action_feature
        if action is None or len(action.shape) != 1:
            shape = None if action is None else tuple(action.shape)
            raise ValueError(
                f"AtlasVLA needs {ACTION!r} of shape (A,), got {shape}; "
                f"the data have {sorted(self.output_features or {})}."
            )

    @property
    def state_dim(self) -> int:
        """Size N of the state; only after the features are known."""
        if self.robot_state_feature is None:
            raise ValueError(f"{OBS_STATE!r} is not among the input features.")
        return self.robot_state_feature.shape[0]

    @property
    def action_dim(self) -> int:
        """Size A of an action; only after the features are known."""
        if self.action_feature is None:
            raise ValueError(f"{ACTION!r} is not among the output features.")
        return self.action_feature.shape[0]

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW with this config's ``optimizer_*`` values."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        """Linear warm-up, then a cosine that ends at zero with the last training step."""
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def observation_delta_indices(self) -> None:
        """One observation, no history."""

    @property
    def action_delta_indices(self) -> list[int]:
        """The actions of a chunk, relative to the current step."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """Rewards are not used."""
