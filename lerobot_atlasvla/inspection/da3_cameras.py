"""Estimate camera poses with the camera decoder of a policy's DA3, read from its source when asked for.

The policy itself never uses it, so its weights are neither loaded with it nor saved.
"""

import torch
from accelerate import init_empty_weights
from torch import Tensor

from lerobot_atlasvla.inputs import prepare_views
from lerobot_atlasvla.model.geometry.da3 import DA3CameraDecoder
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy

from .depth import fill_head

PREFIXES = ("model.cam_dec.", "cam_dec.")


class DA3Cameras:
    """Camera poses from the backbone of a policy.

    Args:
        policy: A policy that sees through a pretrained DA3 (``vision=da3``).

    Raises:
        ValueError: If it does not, or its source has no camera decoder.
    """

    def __init__(self, policy: AtlasVLAPolicy):
        config = policy.config
        if config.is_blind or (config.vision, config.da3_init) != ("da3", "pretrained"):
            raise ValueError(
                "Only a pretrained DA3 has this view of its cameras: vision=da3, da3_init=pretrained; this policy has "
                f"vision={config.vision}, da3_init={config.da3_init}, views={list(config.view_keys)}."
            )
        assert policy.model.aggregator is not None  # a blind policy was refused
        self.policy, self.encoder = policy, policy.model.aggregator
        with init_empty_weights():
            self.decoder = DA3CameraDecoder(2 * self.encoder.embed_dim).eval()
        located = policy.backbone_record.resolve_from_checkpoint("da3")
        fill_head(self.decoder, located, PREFIXES, next(policy.parameters()).device)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the poses of preprocessed observations, (B, V, 9), as :class:`~.DA3CameraDecoder` encodes them.

        Args:
            batch: As for :meth:`.AtlasVLAPolicy.select_action`.
        """
        self.policy.eval()
        images = prepare_views(self.policy.config, batch, training=False).images()
        assert images is not None  # a blind policy was refused
        (tokens,) = self.encoder(images, (self.encoder.depth - 1,)).layers
        return self.decoder(tokens[:, :, 0].float())


def distance_and_turn(poses_BV9: Tensor) -> tuple[Tensor, Tensor]:
    """Compare each camera with the first one.

    Args:
        poses_BV9: World-from-camera poses of :class:`DA3Cameras`.

    Returns:
        Distances ``(B, V)``, in DA3's own scale (not meters), and the angles between the orientations, ``(B, V)``, in
        degrees.
    """
    translation, quaternion = poses_BV9[..., :3], torch.nn.functional.normalize(poses_BV9[..., 3:7], dim=-1)
    cosine = (quaternion * quaternion[:, :1]).sum(-1).abs().clamp(max=1)
    return (translation - translation[:, :1]).norm(dim=-1), torch.rad2deg(2 * cosine.arccos())
