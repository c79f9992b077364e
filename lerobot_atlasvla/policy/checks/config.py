"""Every check of a configuration that needs no data, no files and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lerobot.configs.types import FeatureType, NormalizationMode

from lerobot_atlasvla.model.sizes.architecture import DINOV2_SIZES, PATCH_EMBEDDERS
from lerobot_atlasvla.policy.columns import BLIND

from .landmarks import CONDITIONINGS, LANDMARK_FRAMES, check_conditioning
from .types import ConfigError, shown

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

CHOICES = {
    "vision": ("vggt", "patch", "dinov2", "da3"),
    "fusion": ("late", "early"),
    "head": ("l1", "flow"),
    "dtype": ("float32", "bfloat16"),
    "backbone_dtype": ("auto", "float32", "bfloat16"),
    "compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "vggt_init": ("pretrained", "random"),
    "da3_init": ("pretrained", "random"),
    "vggt_blocks": ("normal", "frozen", "removed"),
    "vggt_patch_embed": PATCH_EMBEDDERS,
    "language_init": ("pretrained", "random"),
    "vision_tower_init": ("pretrained", "random"),
    "query_conditioning": CONDITIONINGS,
    "landmark_frame": LANDMARK_FRAMES,
}


class Interval(NamedTuple):
    """Numbers from ``low`` to ``high``; an open end does not belong to it. NaN is in none."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


# Lowest and highest count. What is beyond the highest is a slip or an attack: far from any policy ever trained,
# and refused before memory fills (what several large numbers come to: model/sizes/memory.py).
COUNTS = {
    "n_obs_steps": (1, 1),
    "chunk_size": (1, 1000),
    "n_action_steps": (1, 1000),
    "empty_cameras": (0, 32),
    "random_shift": (0, 2047),
    "vision_patch_size": (1, 256),
    "vision_patch_dim": (1, 16_384),
    "vggt_patch_size": (1, 256),
    "vggt_embed_dim": (1, 16_384),
    "vggt_depth": (1, 256),
    "vggt_num_heads": (1, 1024),
    "vggt_num_register_tokens": (1, 256),
    "da3_embed_dim": (1, 16_384),
    # In block 5 DA3's views meet for the first time.
    "da3_depth": (6, 256),
    "da3_num_heads": (1, 1024),
    "language_cache_size": (1, 1_000_000),
    "tokenizer_max_length": (1, 32_768),
    "language_hidden_size": (1, 16_384),
    "language_num_layers": (1, 256),
    "language_num_heads": (1, 1024),
    "decoder_hidden_size": (1, 16_384),
    "decoder_num_layers": (1, 256),
    "decoder_num_heads": (1, 1024),
    "num_action_queries": (0, 1000),
    "condition_hidden_size": (1, 65_536),
    "summary_keypoints": (1, 4096),
    "summary_map_channels": (1, 4096),
    "flow_num_steps": (1, 1000),
    "flow_num_layers": (1, 256),
    "feature_cache_copies": (1, 1000),
    "scheduler_warmup_steps": (0, 1_000_000_000),
}
NUMBERS = {
    "random_crop": Interval(0, 1, open_high=True),
    "color_jitter": Interval(0, 1, open_high=True),
    "vggt_layer_scale_init": Interval(0, 10, open_low=True),
    "landmark_scale": Interval(0, 1000, open_low=True),
    "landmark_noise": Interval(0, 1),
    "landmark_turn": Interval(0, 90),
    "optimizer_lr": Interval(0, 1, open_low=True, open_high=True),
    "optimizer_backbone_lr": Interval(0, 1, open_high=True),
    "optimizer_weight_decay": Interval(0, 10),
    # 0 clips nothing.
    "optimizer_grad_clip_norm": Interval(0, 1e6),
}
# Of an exponential that is far from float32's largest number, even as a sum.
LARGEST_EXPONENT = 80
BETAS = Interval(0, 1, open_high=True)
LARGEST_SIDE = 2048
MOST_PATCHES = 16_384
# Numbers of a feature: a longer state or action is no robot's.
LARGEST_FEATURE = 16_384
# DINOv2's own, in every released size, and DA3's.
DINOV2_PATCH_SIZE = 14
DA3_SUPPORTED = "supported are depth-anything/DA3-SMALL and depth-anything/DA3-BASE, both Apache-2.0"
# What the names of the other models of the series say, the first that fits.
DA3_REFUSED = {
    "NESTED": "has a DA3-GIANT inside, which is for non-commercial use (CC BY-NC 4.0)",
    "DA3MONO": "sees one view at a time, but a policy's views are seen together",
    "DA3METRIC": "sees one view at a time, but a policy's views are seen together",
    "LARGE": "is for non-commercial use (CC BY-NC 4.0)",
    "GIANT": "is for non-commercial use (CC BY-NC 4.0)",
}


def check(config: AtlasVLAConfig) -> None:
    """Check every value of a configuration.

    Raises:
        ConfigError: For the first one that can't work.
    """
    for name, allowed in CHOICES.items():
        _one_of(name, getattr(config, name), allowed)
    _check_chunk(config)
    _check_widths(config)
    _check_ensembling(config)
    for name, (least, most) in COUNTS.items():
        if not least <= getattr(config, name) <= most:
            raise ConfigError(
                f"{name} must be at least {least} and at most {most}, got {getattr(config, name)} (--policy.{name})."
            )
    for name, interval in NUMBERS.items():
        if getattr(config, name) not in interval:
            raise ConfigError(f"{name} must lie in {interval}, got {getattr(config, name)} (--policy.{name}).")
    if any(beta not in BETAS for beta in config.optimizer_betas):
        raise ConfigError(
            f"optimizer_betas must both lie in {BETAS}, got {config.optimizer_betas} (--policy.optimizer_betas)."
        )
    _check_normalization(config)
    _check_features(config)
    _check_images(config)
    _check_output_layers(config)
    _check_backbones(config)
    _check_da3(config)
    check_conditioning(config)
    _check_names_of_geometry(config)
    _check_feature_cache(config)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)} (--policy.{name}).")


def _check_chunk(config: AtlasVLAConfig) -> None:
    if config.chunk_size >= 1 and not 1 <= config.n_action_steps <= config.chunk_size:
        raise ConfigError(
            f"n_action_steps must lie in 1 .. chunk_size = {config.chunk_size}, got {config.n_action_steps} "
            "(--policy.n_action_steps, --policy.chunk_size)."
        )
    if config.n_obs_steps != 1:
        raise ConfigError(
            f"AtlasVLA reads one observation; got n_obs_steps {config.n_obs_steps} (--policy.n_obs_steps)."
        )


def _check_ensembling(config: AtlasVLAConfig) -> None:
    coeff, chunk = config.temporal_ensemble_coeff, config.chunk_size
    if coeff is None:
        return
    # The weights are exp(-coeff i), i < chunk_size, in float32.
    allowed = Interval(-LARGEST_EXPONENT / max(1, chunk - 1), LARGEST_EXPONENT)
    if coeff not in allowed:
        raise ConfigError(
            f"temporal_ensemble_coeff must lie in {allowed} with chunk_size {chunk}, got {coeff} "
            "(--policy.temporal_ensemble_coeff; ACT's is 0.01)."
        )
    if config.n_action_steps != 1:
        raise ConfigError(
            f"temporal_ensemble_coeff {coeff} averages what was predicted at every step, so n_action_steps must be 1, "
            f"got {config.n_action_steps} (--policy.n_action_steps=1, or leave out --policy.temporal_ensemble_coeff)."
        )
    if config.head != "l1":
        raise ConfigError(
            f"temporal_ensemble_coeff {coeff} averages predictions of the l1 head; those of head {config.head!r} start "
            "from noise and may be of several ways to act (--policy.head=l1, or leave out "
            "--policy.temporal_ensemble_coeff)."
        )
    if config.rtc_config is not None:
        raise ConfigError(
            f"temporal_ensemble_coeff {coeff} and rtc_config both merge a chunk with the ones before; set one of them "
            "(--policy.temporal_ensemble_coeff, --policy.rtc_config)."
        )


def _check_normalization(config: AtlasVLAConfig) -> None:
    kinds, modes = [kind.value for kind in FeatureType], [mode.value for mode in NormalizationMode]
    for kind, mode in config.normalization_mapping.items():
        # A misspelled kind would go without normalization.
        if kind not in kinds or mode not in modes:
            raise ConfigError(
                f"normalization_mapping maps {', '.join(kinds)} to {', '.join(modes)}, got {shown(kind)}: "
                f"{shown(mode)} (--policy.normalization_mapping)."
            )


def _check_features(config: AtlasVLAConfig) -> None:
    for field in ("input_features", "output_features"):
        for key, feature in (getattr(config, field) or {}).items():
            if any(type(size) is not int or not 1 <= size <= LARGEST_FEATURE for size in feature.shape):
                raise ConfigError(
                    f"{field} has {shown(key)} of shape {shown(feature.shape)}; every size must be a whole number "
                    f"from 1 to {LARGEST_FEATURE} (config.json, or the dataset's meta/info.json)."
                )


def _check_images(config: AtlasVLAConfig) -> None:
    patch = config.patch_size
    flag = {"vggt": ", --policy.vggt_patch_size", "patch": ", --policy.vision_patch_size"}.get(config.vision, "")
    size = config.image_size
    if len(size) != 2 or any(side < patch or side % patch for side in size):
        nearest = [max(patch, round(side / patch) * patch) for side in size[:2]]
        raise ConfigError(
            f"image_size must be (height, width), both multiples of the patch size {patch}, got {size}; nearest "
            f"allowed: {nearest} (--policy.image_size{flag})."
        )
    if max(size) > LARGEST_SIDE or size[0] // patch * (size[1] // patch) > MOST_PATCHES:
        raise ConfigError(
            f"image_size must be at most {LARGEST_SIDE} pixels a side and {MOST_PATCHES} patches of {patch} pixels, "
            f"got {size} (--policy.image_size{flag})."
        )
    if not 0 <= config.random_shift < min(size):
        raise ConfigError(
            f"random_shift must lie in 0 .. {min(size) - 1} pixels, got {config.random_shift} (--policy.random_shift)."
        )
    for name in ("views", "vggt_views"):
        if len(set(keys := getattr(config, name))) != len(keys):
            raise ConfigError(f"{name} names a camera twice: {shown(list(keys))} (--policy.{name}).")
    if BLIND[0] in config.views and not config.is_blind:
        raise ConfigError(
            f"views asks a blind policy for cameras: {shown(list(config.views))}. Either {BLIND[0]} alone, for "
            "state and instruction only, or the cameras' names (--policy.views)."
        )
    if config.is_blind and config.empty_cameras:
        raise ConfigError(
            f"A blind policy has no cameras, got empty_cameras {config.empty_cameras} (--policy.empty_cameras=0, or "
            "other --policy.views)."
        )


def _check_widths(config: AtlasVLAConfig) -> None:
    units = {"vggt_embed_dim": 4, "da3_embed_dim": 4, "language_hidden_size": 2, "decoder_hidden_size": 1}
    if config.head == "flow":
        units["decoder_hidden_size"] = 2
    for width_name, unit in units.items():
        heads_name = width_name.rsplit("_", 2)[0] + "_num_heads"
        width, heads = getattr(config, width_name), getattr(config, heads_name)
        if heads < 1 or width < 1 or width % (heads * unit):
            raise ConfigError(
                f"{width_name} must be a multiple of {unit} x {heads_name} = {unit * heads}, got {width} "
                f"(--policy.{width_name}, --policy.{heads_name})."
            )


def _check_output_layers(config: AtlasVLAConfig) -> None:
    for part in ("vggt", "da3"):
        layers, depth = getattr(config, f"{part}_output_layers"), getattr(config, f"{part}_depth")
        if not layers or any(not 0 <= layer < depth for layer in layers) or list(layers) != sorted(set(layers)):
            raise ConfigError(
                f"{part}_output_layers must be ascending layers in 0 .. {depth - 1}, got {shown(layers)} "
                f"(--policy.{part}_output_layers, --policy.{part}_depth)."
            )


def _check_backbones(config: AtlasVLAConfig) -> None:
    for part in ("vggt", "da3", "language", "vision_tower"):
        model_flag = "vision_tower" if part == "vision_tower" else f"{part}_model"
        if not getattr(config, model_flag):
            raise ConfigError(
                f"{model_flag} is empty; give a Hub id, a folder or a file (--policy.{model_flag}), or ask for random "
                f"weights by name (--policy.{part}_init=random)."
            )
    if config.vggt_init == "pretrained" and config.vggt_blocks == "removed":
        raise ConfigError(
            "vggt_blocks='removed' leaves nothing of a pretrained VGGT to use; got vggt_init='pretrained' "
            "(--policy.vggt_blocks=normal, or --policy.vggt_init=random)."
        )
    if config.vision == "vggt" and not config.is_blind:
        _check_patch_embed(config)
    released = config.vggt_init == "pretrained" and config.vggt_model.startswith("facebook/VGGT")
    if released and config.vision == "vggt" and config.vggt_patch_embed == "conv_stem":
        raise ConfigError(
            "vggt_patch_embed='conv_stem' has no released weights: use --policy.vggt_init=random, a backbone made by "
            "atlasvla-pretrain (--policy.vggt_model), or --policy.vggt_patch_embed=dinov2_vitl14_reg."
        )
    if config.vggt_views and (config.vision == "da3" or config.vggt_init != "pretrained"):
        raise ConfigError(
            f"vggt_views {shown(list(config.vggt_views))} names cameras in the roles of a pretrained VGGT; got vision "
            f"{config.vision!r} and vggt_init {config.vggt_init!r} (leave out --policy.vggt_views; --policy.views sets "
            "the order of cameras)."
        )
    if config.language_on_cpu and (not config.is_frozen("language") or config.peft_language):
        raise ConfigError(
            "language_on_cpu needs a language model that does not learn, whose features can be remembered; got "
            f"freeze_language {config.freeze_language} with language_init {config.language_init!r}, and peft_language "
            f"{config.peft_language} (--policy.language_on_cpu=false, or --policy.freeze_language=true "
            "--policy.peft_language=false)."
        )


def _check_patch_embed(config: AtlasVLAConfig) -> None:
    name, size = config.vggt_patch_embed, config.vggt_patch_size
    if name in DINOV2_SIZES and DINOV2_SIZES[name][0] != config.vggt_embed_dim:
        raise ConfigError(
            f"vggt_patch_embed {name} is {DINOV2_SIZES[name][0]} wide, got vggt_embed_dim {config.vggt_embed_dim} "
            "(--policy.vggt_patch_embed, --policy.vggt_embed_dim)."
        )
    if name == "conv_stem" and (size < 4 or size & (size - 1)):
        raise ConfigError(
            f"vggt_patch_size must be a power of two and at least 4 for vggt_patch_embed conv_stem, got {size} "
            "(--policy.vggt_patch_size, --policy.vggt_patch_embed)."
        )


def _check_da3(config: AtlasVLAConfig) -> None:
    if config.vision != "da3":
        return
    if config.fusion != "late":
        raise ConfigError(
            f"vision='da3' sees images only, so fusion must be 'late', got {config.fusion!r} (--policy.fusion=late, or "
            "--policy.vision=vggt)."
        )
    if config.vggt_blocks != "normal":
        raise ConfigError(
            f"vggt_blocks is an ablation of VGGT, which vision='da3' does without; got {config.vggt_blocks!r} "
            "(--policy.vggt_blocks=normal)."
        )


def _check_names_of_geometry(config: AtlasVLAConfig) -> None:
    """Refuse by its name on the Hub what its file would be refused for, before gigabytes are downloaded."""
    part = config.geometry_backbone
    model = getattr(config, f"{part}_model")
    if config.is_blind or getattr(config, f"{part}_init") != "pretrained":
        return
    if model.startswith("depth-anything/") and part == "vggt":
        raise ConfigError(
            f"vggt_model is a Depth Anything 3, {model!r} (--policy.vggt_model); for DA3, use --policy.vision=da3 "
            f"--policy.da3_model={model}."
        )
    if model.startswith("facebook/VGGT") and part == "da3":
        raise ConfigError(
            f"da3_model is a VGGT, {model!r} (--policy.da3_model); for VGGT, use --policy.vision=vggt "
            f"--policy.vggt_model={model}."
        )
    series = model.removeprefix("depth-anything/") if part == "da3" and model.startswith("depth-anything/") else ""
    if reason := next((why for name, why in DA3_REFUSED.items() if name in series.upper()), None):
        raise ConfigError(f"da3_model {model!r} {reason}; {DA3_SUPPORTED} (--policy.da3_model).")


def _check_feature_cache(config: AtlasVLAConfig) -> None:
    if not config.feature_cache:
        return
    if config.is_blind:
        raise ConfigError(
            f"A blind policy has no backbone whose features could be cached: views {list(config.views)}, feature_cache "
            f"{config.feature_cache!r} (--policy.views, --policy.feature_cache)."
        )
    part = config.geometry_backbone
    if not config.is_frozen(part) or config.fusion != "late" or config.vision != part:
        raise ConfigError(
            f"A feature cache needs features that depend on the images alone: freeze_{part}=true, fusion='late' and "
            f"vision='vggt' or 'da3', got {config.is_frozen(part)}, {config.fusion!r} and {config.vision!r}; or leave "
            "out --policy.feature_cache."
        )
    if config.empty_cameras:
        raise ConfigError(
            f"A feature cache has the same views for every frame; got empty_cameras {config.empty_cameras} "
            "(--policy.empty_cameras=0, or leave out --policy.feature_cache)."
        )
    names = [name for name in ("random_shift", "random_crop", "color_jitter") if getattr(config, name)]
    if bool(names) != (config.feature_cache_copies > 1):
        have = f"{', '.join(names)} set" if names else "no augmentation"
        raise ConfigError(
            f"With augmentation, a feature cache needs several copies of each frame to choose from, and without it "
            f"one; got {have} and feature_cache_copies {config.feature_cache_copies} (--policy.feature_cache_copies, "
            "--policy.random_shift, --policy.random_crop, --policy.color_jitter)."
        )
