"""From a configuration to the network it describes."""

from collections.abc import Collection

from .configuration_atlasvla import AtlasVLAConfig
from .model.atlas import AtlasVLA
from .model.decoder import DecoderSpec
from .model.spec import AtlasSpec, GeometrySpec, HeadSpec, LanguageSpec, SummarySpec, VisionSpec


def build_model(config: AtlasVLAConfig, *, without_weights: Collection[str] = ()) -> AtlasVLA:
    """Build the network that a configuration describes, with fresh weights.

    Args:
        config: Features and architectures filled in.
        without_weights: Backbones to build without memory, to be filled afterwards.
    """
    return AtlasVLA(make_spec(config), without_weights=without_weights)


def make_spec(config: AtlasVLAConfig) -> AtlasSpec:
    """Translate the configuration, features and architectures filled in, into sizes and choices."""
    return AtlasSpec(
        geometry=GeometrySpec(
            patch_embed=config.vggt_patch_embed,
            patch_size=config.vggt_patch_size,
            embed_dim=config.vggt_embed_dim,
            depth=config.vggt_depth,
            num_heads=config.vggt_num_heads,
            num_register_tokens=config.vggt_num_register_tokens,
            layer_scale_init=config.vggt_layer_scale_init,
            has_blocks=config.vggt_blocks != "removed",
            output_layers=config.vggt_output_layers,
        ),
        vision=VisionSpec(
            kind=config.vision,
            patch_size=config.patch_size,
            patch_dim=config.vision_patch_dim,
            architecture=config.backbone_architectures.get("vision_tower", {}),
        ),
        language=LanguageSpec(
            architecture=config.backbone_architectures["language"],
            cache_size=config.language_cache_size,
            on_cpu=config.language_on_cpu,
        ),
        fusion=config.fusion,
        decoder=DecoderSpec(
            hidden_size=config.decoder_hidden_size,
            num_layers=config.decoder_num_layers,
            num_heads=config.decoder_num_heads,
            num_queries=config.num_action_queries,
            condition_hidden_size=config.condition_hidden_size,
        ),
        condition_queries=config.condition_queries,
        summary=SummarySpec(keypoints=config.summary_keypoints, map_channels=config.summary_map_channels),
        head=HeadSpec(kind=config.head, flow_num_layers=config.flow_num_layers),
        image_size=config.image_size,
        views=len(config.view_keys),
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        chunk_size=config.chunk_size,
    )
