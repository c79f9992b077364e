"""Depth and camera poses as a policy's VGGT estimates them: its own heads, read from its checkpoint when asked for.

The policy itself never uses them, so their weights (1.0 GB in VGGT-1B) are neither loaded with it nor saved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.model.geometry.vggt_heads import CameraHead, DepthHead
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights import backbones
from lerobot_atlasvla.weights.download import ResolvedWeights
from lerobot_atlasvla.weights.tensor_files import read_tensors

DEPTH_LAYERS = (4, 11, 17, 23)


@dataclass(frozen=True)
class GeometryView:
    """Geometry of one batch of views, in VGGT's own scale (not meters).

    Attributes:
        depth_BVHW: Depth along the viewing direction, positive.
        confidence_BVHW: At least 1; larger is surer.
        pose_encoding_BV9: Camera-from-world translation (3), quaternion x y z w (4, not normalized), vertical and
            horizontal field of view (2, rad); the first view is the world.
    """

    depth_BVHW: Tensor
    confidence_BVHW: Tensor
    pose_encoding_BV9: Tensor


class GeometryReader:
    """Depth and camera poses from the backbone of a policy.

    Args:
        policy: A policy whose vision encoder is a pretrained VGGT (``vision=vggt``, ``fusion=late``).
        depth_layers: Aggregator layers that the depth head reads.
        depth_features: Channels of the depth head while fusing.
        depth_channels: Channels of its four maps before fusing.

    Raises:
        ValueError: If the policy has no such vision encoder, or the checkpoint has no such heads.
    """

    def __init__(
        self,
        policy: AtlasVLAPolicy,
        *,
        depth_layers: Sequence[int] = DEPTH_LAYERS,
        depth_features: int = 256,
        depth_channels: Sequence[int] = (256, 512, 1024, 1024),
    ):
        config = policy.config
        if config.is_blind:
            raise ValueError("A blind policy (--policy.views=none) has no view of the geometry.")
        if (config.vision, config.fusion, config.vggt_init) != ("vggt", "late", "pretrained"):
            raise ValueError(
                "Only a pretrained VGGT that sees images as it was trained to has a view of the geometry: vision=vggt, "
                f"fusion=late, vggt_init=pretrained; this policy has vision={config.vision}, fusion={config.fusion}, "
                f"vggt_init={config.vggt_init}."
            )
        if max(depth_layers) >= config.vggt_depth:
            raise ValueError(
                f"The depth head reads layers {tuple(depth_layers)}, but vggt_depth is {config.vggt_depth}."
            )
        self.policy = policy
        self.aggregator: Any = policy.model.aggregator
        self.last_layer = config.vggt_depth - 1
        with init_empty_weights():
            width = 2 * config.vggt_embed_dim
            self.camera = CameraHead(width).eval()
            self.depth = DepthHead(
                width,
                patch_size=config.vggt_patch_size,
                layers=depth_layers,
                features=depth_features,
                out_channels=depth_channels,
            ).eval()
        located = policy.backbone_record.resolve_from_checkpoint("vggt")
        for name, head in (("camera_head", self.camera), ("depth_head", self.depth)):
            fill_head(head, located, (f"{name}.",), next(policy.parameters()).device)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> GeometryView:
        """Estimate the geometry of preprocessed observations.

        Args:
            batch: As for :meth:`.AtlasVLAPolicy.select_action`.
        """
        self.policy.eval()
        images = prepare_views(self.policy.config, batch, training=False).images()
        assert images is not None  # a blind policy was refused
        layers = sorted({*self.depth.layers, self.last_layer})
        output = self.aggregator(images, layers)
        by_layer = {layer: tokens.float() for layer, tokens in zip(layers, output.layers, strict=True)}
        height, width = images.shape[-2:]
        depth, confidence = self.depth(
            [by_layer[layer] for layer in self.depth.layers], (height, width), output.patch_start_idx
        )
        return GeometryView(depth[..., 0], confidence, self.camera(by_layer[self.last_layer])[-1])


def fill_head(head: nn.Module, located: ResolvedWeights, prefixes: Sequence[str], device: torch.device) -> None:
    """Fill a head that was built without memory, in float32, from the source of a policy's backbone.

    Raises:
        WeightsError: If the source has no such head under any of the prefixes.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    tensors, _ = read_tensors(located.weights, expected, source=located.name, prefixes=prefixes)
    backbones.fill(head, tensors, torch.float32)
    head.to(device).requires_grad_(False)
