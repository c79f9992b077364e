"""Every check of a configuration that needs no data, no files and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from draccus.utils import DecodingError

if TYPE_CHECKING:
    from .configuration_atlasvla import AtlasVLAConfig

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
    "language_init": ("pretrained", "random"),
    "vision_tower_init": ("pretrained", "random"),
}
AT_LEAST_ONE = (
    "vision_patch_size",
    "vision_patch_dim",
    "vggt_num_register_tokens",
    "language_num_layers",
    "language_cache_size",
    "decoder_num_layers",
    "condition_hidden_size",
    "summary_keypoints",
    "summary_map_channels",
    "flow_num_steps",
    "flow_num_layers",
    "tokenizer_max_length",
    "feature_cache_copies",
)
# What ``views`` holds for a policy without images.
BLIND = ("none",)
# DINOv2's own, in every released size, and DA3's.
DINOV2_PATCH_SIZE = 14
# In block 5 DA3's views meet for the first time.
DA3_LEAST_DEPTH = 6
DA3_SUPPORTED = "supported are depth-anything/DA3-SMALL and depth-anything/DA3-BASE, both Apache-2.0"
# What the names of the other models of the series say, the first that fits.
DA3_REFUSED = {
    "NESTED": "has a DA3-GIANT inside, which is for non-commercial use (CC BY-NC 4.0)",
    "DA3MONO": "sees one view at a time, but a policy's views are seen together",
    "DA3METRIC": "sees one view at a time, but a policy's views are seen together",
    "LARGE": "is for non-commercial use (CC BY-NC 4.0)",
    "GIANT": "is for non-commercial use (CC BY-NC 4.0)",
}


class ConfigError(DecodingError):
    """A setting can't work; the message names it, its value, what is allowed and the flag.

    Not a ValueError: draccus answers those with "Couldn't instantiate class AtlasVLAConfig" and drops their message;
    its own errors it lets through to LeRobot's command line.
    """

    def __init__(self, message: str):
        super().__init__((), message)


def check(config: AtlasVLAConfig) -> None:
    """Check every value of a configuration.

    Raises:
        ConfigError: For the first one that can't work.
    """
    for name, allowed in CHOICES.items():
        _one_of(name, getattr(config, name), allowed)
    for name in AT_LEAST_ONE:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(config, name)} (--policy.{name}).")
    _check_chunk(config)
    _check_images(config)
    _check_widths(config)
    _check_output_layers(config)
    _check_backbones(config)
    _check_da3(config)
    _check_names_of_geometry(config)
    _check_feature_cache(config)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r} (--policy.{name}).")


def _check_chunk(config: AtlasVLAConfig) -> None:
    if config.chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1, got {config.chunk_size} (--policy.chunk_size).")
    if not 1 <= config.n_action_steps <= config.chunk_size:
        raise ConfigError(
            f"n_action_steps must lie in 1 .. chunk_size = {config.chunk_size}, got {config.n_action_steps} "
            "(--policy.n_action_steps, --policy.chunk_size)."
        )
    if config.n_obs_steps != 1:
        raise ConfigError(
            f"AtlasVLA reads one observation; got n_obs_steps {config.n_obs_steps} (--policy.n_obs_steps)."
        )
    if config.empty_cameras < 0:
        raise ConfigError(f"empty_cameras must be at least 0, got {config.empty_cameras} (--policy.empty_cameras).")
    if config.num_action_queries < 0:
        raise ConfigError(
            f"num_action_queries must be 0 (one per action of the chunk) or more, got {config.num_action_queries} "
            "(--policy.num_action_queries)."
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
    if not 0 <= config.random_shift < min(size):
        raise ConfigError(
            f"random_shift must lie in 0 .. {min(size) - 1} pixels, got {config.random_shift} (--policy.random_shift)."
        )
    for name in ("random_crop", "color_jitter"):
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} must lie in 0 .. 1 (exclusive), got {getattr(config, name)} (--policy.{name}).")
    if len(set(config.views)) != len(config.views):
        raise ConfigError(f"views names a camera twice: {list(config.views)} (--policy.views).")
    if BLIND[0] in config.views and not config.is_blind:
        raise ConfigError(
            f"views asks a blind policy for cameras: {list(config.views)}. Either {BLIND[0]} alone, for state and "
            "instruction only, or the cameras' names (--policy.views)."
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
                f"{part}_output_layers must be ascending layers in 0 .. {depth - 1}, got {layers} "
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
    if config.vggt_init == "pretrained" and config.vision == "vggt" and config.vggt_patch_embed == "conv_stem":
        raise ConfigError(
            "vggt_patch_embed='conv_stem' has no released weights: use --policy.vggt_init=random, or "
            "--policy.vggt_patch_embed=dinov2_vitl14_reg."
        )
    if config.language_on_cpu and (not config.is_frozen("language") or config.peft_language):
        raise ConfigError(
            "language_on_cpu needs a language model that does not learn, whose features can be remembered; got "
            f"freeze_language {config.freeze_language} with language_init {config.language_init!r}, and peft_language "
            f"{config.peft_language} (--policy.language_on_cpu=false, or --policy.freeze_language=true "
            "--policy.peft_language=false)."
        )


def _check_da3(config: AtlasVLAConfig) -> None:
    if config.da3_depth < DA3_LEAST_DEPTH:
        raise ConfigError(
            f"da3_depth must be at least {DA3_LEAST_DEPTH}, for views meet in block {DA3_LEAST_DEPTH - 1} first; got "
            f"{config.da3_depth} (--policy.da3_depth)."
        )
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
