"""Record a policy's attention over the image patches while it predicts, and draw it over the images.

Shape suffixes: B batch, N heads, K head size, Q action queries, S scene tokens, D decoder width, V view, H rows,
W columns, C color channels.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor

from lerobot_atlasvla.model.layers import CrossAttention
from lerobot_atlasvla.model.types import TokenGroup
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.utils.extras import require
from lerobot_atlasvla.weights.peft import without_adapter

COLORMAP = "turbo"
OPACITY = 0.7


@dataclass(frozen=True)
class ChunkAttention:
    """Attention of the action queries in one forward pass, averaged over queries, heads and decoder layers.

    The decoder looks at the scene and at language and state in two attentions of their own; this is the first, so
    language and state take nothing from it. It says where a query looked, not how much that moved the action: the
    layers' gates and values are not in it, and after VGGT's blocks a patch token also knows of other patches.

    Attributes:
        views: Image keys of the views that were there, in the policy's order.
        attention_VHW: Part of the attention that each patch got, (views, patch rows, patch columns), float32. A view's
            patches cover the whole image. The sum over everything is at most 1.
        share: Parts of the attention by kind of token, which add up to 1: ``patches`` and, with late fusion,
            ``camera`` (VGGT's camera tokens, one per view).
    """

    views: tuple[str, ...]
    attention_VHW: np.ndarray
    share: dict[str, float]


class AttentionRecorder:
    """Records where the action queries look, in a ``with`` block; outside of it the policy is as it was.

    Hooks compute the attention a second time from the inputs of the attention layers, so that the policy keeps its
    fused attention and its actions. Inside the block whatever is compiled runs uncompiled: compiled code calls no
    hooks. Not for several threads at once.

    Args:
        policy: The policy, with or without an adapter (PEFT) around it.

    Attributes:
        chunks: One entry per forward pass of the model, for the first sample of the batch only; in rollouts there is
            just one.

    Raises:
        ValueError: If it is no AtlasVLA policy.
    """

    def __init__(self, policy: AtlasVLAPolicy):
        whole = without_adapter(policy)
        if not isinstance(whole, AtlasVLAPolicy):
            kind = getattr(whole, "name", type(whole).__name__)
            raise ValueError(
                f"Only a policy of type {AtlasVLAPolicy.name} has action queries that attend to image patches; this "
                f"one is of type {kind}."
            )
        if whole.config.is_blind:
            raise ValueError("A blind policy (--policy.views=none) has no image patches to attend to.")
        if not whole.config.geometry_layers:
            raise ValueError(
                "The decoder of this policy sees landmarks and no image patches "
                f"(--policy.query_conditioning={whole.config.query_conditioning})."
            )
        self.policy = whole
        self.chunks: list[ChunkAttention] = []
        self._stack = ExitStack()
        self._present: tuple[int, ...] = ()
        self._layers: list[Tensor] = []

    def clear(self) -> None:
        """Forget the attention of all chunks recorded so far."""
        self.chunks.clear()

    def __enter__(self) -> Self:
        model = self.policy.model
        blocks: Any = model.decoder.blocks
        hooks = [
            model.fusion.register_forward_hook(self._note_views),
            *(block.geometry_attention.register_forward_hook(self._note_layer) for block in blocks),
            model.decoder.register_forward_hook(self._finish_chunk),
        ]
        for hook in hooks:
            self._stack.callback(hook.remove)
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _note_views(self, fusion: Any, arguments: tuple[Any, ...], fused: Any) -> None:
        self._present = arguments[0].present
        self._layers.clear()

    def _note_layer(self, attention: CrossAttention, arguments: tuple[Tensor, TokenGroup], out_BQD: Tensor) -> None:
        x_BQD, group = arguments
        mask_BS = None if group.mask_BS is None else group.mask_BS[:1]
        weights_BNQS = attention_weights(attention, x_BQD[:1], TokenGroup(group.tokens_BSD[:1], mask_BS))
        self._layers.append(weights_BNQS.mean(dim=(0, 1, 2)))

    def _finish_chunk(self, decoder: Any, arguments: Any, decoded: Any) -> None:
        rows, columns = self.policy.model.grid
        # Per view: the camera token, if the fusion has one, then the patches row by row.
        by_view_VS = torch.stack(self._layers).mean(dim=0).unflatten(0, (len(self._present), -1)).cpu()
        special_VS, patches_VS = by_view_VS.split((by_view_VS.shape[1] - rows * columns, rows * columns), dim=1)
        share = {"patches": patches_VS.sum().item()}
        if special_VS.numel():
            share["camera"] = special_VS.sum().item()
        keys = self.policy.config.view_keys
        views = tuple(keys[index] for index in self._present)
        self.chunks.append(ChunkAttention(views, patches_VS.unflatten(1, (rows, columns)).numpy(), share))


@torch.no_grad()
def attention_weights(attention: CrossAttention, x_BQD: Tensor, group: TokenGroup) -> Tensor:
    """Return the weights of a cross-attention layer, ``(B, N, Q, S)``, float32; they sum to 1 over S.

    Args:
        attention: The layer.
        x_BQD: Its queries' input.
        group: The tokens it looks at.
    """
    q_BNQK = attention.query(x_BQD).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).float()
    key_value = attention.key_value(group.tokens_BSD).unflatten(-1, (2, attention.num_heads, -1))
    k_BNSK = key_value[:, :, 0].transpose(1, 2).float()
    scores_BNQS = q_BNQK @ k_BNSK.mT * q_BNQK.shape[-1] ** -0.5
    if group.mask_BS is not None:
        scores_BNQS = scores_BNQS.masked_fill(~group.mask_BS[:, None, None, :], -torch.inf)
    return scores_BNQS.softmax(dim=-1)


def draw_attention(image_HWC: np.ndarray, attention_HW: np.ndarray, *, maximum: float | None = None) -> np.ndarray:
    """Lay an attention map over its view: the more attention, the redder and the less transparent.

    Args:
        image_HWC: The view, RGB, uint8, of any size.
        attention_HW: Attention per patch, (patch rows, patch columns), at least 0; stretched over the whole image.
        maximum: Attention that gets the strongest color, so that several maps can be compared; by default the
            map's own maximum.

    Returns:
        A new image of the same size, uint8.

    Raises:
        ValueError: For an image or a map of another kind, or a maximum that is not positive.
    """
    require("matplotlib", "eval", "A drawing of attention")
    from matplotlib import colormaps

    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(f"The image must be uint8 RGB of shape (H, W, 3), got {image_HWC.dtype} {image_HWC.shape}.")
    if attention_HW.ndim != 2 or not np.isfinite(attention_HW).all() or attention_HW.min() < 0:
        raise ValueError(
            f"The attention must be (patch rows, patch columns), finite and at least 0, got shape {attention_HW.shape} "
            f"with values {attention_HW.min()} .. {attention_HW.max()}."
        )
    if maximum is not None and not maximum > 0:
        raise ValueError(f"maximum must be positive, got {maximum}.")
    largest = attention_HW.max() if maximum is None else maximum
    if not largest:
        return image_HWC.copy()
    heat_11HW = torch.from_numpy(np.clip(attention_HW / largest, 0, 1).astype(np.float32))[None, None]
    heat_HW = F.interpolate(heat_11HW, image_HWC.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    color_HWC = colormaps[COLORMAP](heat_HW)[..., :3] * 255
    opacity_HW1 = OPACITY * heat_HW[..., None]
    return (image_HWC * (1 - opacity_HW1) + color_HWC * opacity_HW1).round().astype(np.uint8)
