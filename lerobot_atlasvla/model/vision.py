"""Patch embedders and vision towers: images to one token per patch.

Shape suffixes: B batch, V view, N images, H and W in pixels, P tokens per image, C width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings

from .sizes.architecture import DINOV2_SIZES, PATCH_EMBEDDERS, architecture_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DINOV2_REGISTERS = 4


def check_image_size(height: int, width: int, patch_size: int, flags: str) -> None:
    """Refuse an image that does not divide into patches; ``flags`` are those to change.

    Raises:
        ValueError: Naming the size, the patch size and the nearest size that works.
    """
    if height % patch_size or width % patch_size:
        nearest = tuple(max(patch_size, round(side / patch_size) * patch_size) for side in (height, width))
        raise ValueError(
            f"Image size {(height, width)} is no multiple of the patch size {patch_size}; "
            f"the nearest allowed size is {nearest} ({flags})."
        )


class ImageNetScale(nn.Module):
    """RGB in [0, 1] to ImageNet's mean 0 and standard deviation 1, in float32."""

    def __init__(self) -> None:
        super().__init__()
        # Not in any released checkpoint, hence non-persistent.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to ``(N, 3, H, W)``."""
        return (images_N3HW.float() - self.mean) / self.std


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel, as the matrix product that it is.

    Patches don't overlap, so cutting them out copies each pixel once. PyTorch's convolution is slow for bfloat16 on a
    CPU; in float32 there is little between them.

    Args:
        channels: Channels of the image.
        dim: Width C.
        patch_size: Pixels per patch side.
    """

    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__(channels, dim, patch_size, stride=patch_size)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, C, h, w)``; pixels beyond the last whole patch are left out."""
        rows, columns = (side // size for side, size in zip(input.shape[-2:], self.kernel_size, strict=True))
        high, wide = self.kernel_size
        whole_N3HW = input[..., : rows * high, : columns * wide]
        patches = whole_N3HW.unflatten(3, (columns, wide)).unflatten(2, (rows, high)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ConvPatchEmbed(nn.Module):
    """One strided convolution, no norm: VGGT's ``patch_embed="conv"`` (keys ``proj.weight``, ``proj.bias``)."""

    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.proj = PatchConv2d(3, dim, patch_size)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to ``(N, P, C)``."""
        return self.proj(images_N3HW).flatten(2).transpose(1, 2)


class ConvStem(nn.Module):
    """A few stride-2 convolutions plus a learned position per patch: learns from little data, from scratch.

    Args:
        patch_size: Total stride, a power of two of at least 4.
        dim: Token width C.
        grid: Patches per (column, row) of an image; the position table has exactly this size.

    Source: Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021, arXiv:2106.14881.
    """

    def __init__(self, patch_size: int, dim: int, grid: tuple[int, int]):
        super().__init__()
        steps = patch_size.bit_length() - 1
        if patch_size < 4 or 2**steps != patch_size:
            raise ValueError(
                f"The convolutional stem needs a patch size that is a power of two and at least 4, got {patch_size} "
                "(--policy.vggt_patch_size)."
            )
        layers: list[nn.Module] = []
        channels = 3
        for step in range(steps):
            out_channels = max(32, dim >> (steps - 1 - step))
            layers += [nn.Conv2d(channels, out_channels, 3, stride=2, padding=1), nn.ReLU()]
            channels = out_channels
        layers += [nn.Conv2d(channels, dim, 1)]
        self.grid = grid
        self.layers = nn.Sequential(*layers)
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to ``(N, P, C)``; raises ValueError if the patch grid is not the one built for."""
        features_NChw = self.layers(images_N3HW)
        if tuple(features_NChw.shape[-2:]) != self.grid:
            raise ValueError(
                f"The convolutional stem was built for a {self.grid} patch grid, got images of "
                f"{tuple(images_N3HW.shape[-2:])} pixels (--policy.image_size)."
            )
        return features_NChw.flatten(2).transpose(1, 2) + self.pos_embed


class RememberedTable:
    """Keeps a position table that was interpolated last, while the one it was made of doesn't learn.

    The released tables are for 37 x 37 patches. At 224 pixels, interpolating one (bicubic, antialiased, 1024 channels)
    costs as much as a transformer block.
    """

    def __init__(self) -> None:
        # What the table was made of, and the table. Not a buffer: it is no state, and a cast must not touch it.
        self._known: tuple[tuple[Any, ...], Tensor] | None = None

    def of(self, table: Tensor, size: tuple[int, ...], interpolate: Callable[[], Tensor]) -> Tensor:
        """Return what ``interpolate`` makes of ``table`` for one size of images."""
        if table.requires_grad or torch.compiler.is_compiling():
            return interpolate()
        version = 0 if table.is_inference() else table._version
        made_of = (id(table), version, table.data_ptr(), table.dtype, *size)
        if self._known is None or self._known[0] != made_of:
            # Made in a rollout, used in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._known = made_of, interpolate()
        return self._known[1]


class _RememberedPositions:
    """Mixin for transformers' DINOv2 embeddings."""

    position_embeddings: Any
    remembered: RememberedTable

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Interpolate as transformers does, which reads nothing of ``embeddings`` but its shape."""
        interpolate = super().interpolate_pos_encoding  # pyrefly: ignore[missing-attribute]
        size = (embeddings.shape[1], height, width)
        return self.remembered.of(self.position_embeddings, size, lambda: interpolate(embeddings, height, width))


class _Dinov2Embeddings(_RememberedPositions, Dinov2Embeddings):
    pass


class _Dinov2WithRegistersEmbeddings(_RememberedPositions, Dinov2WithRegistersEmbeddings):
    pass


def with_remembered_positions(embeddings: Any) -> Any:
    """Return the same embeddings, weights and all, with a remembered position table and a quick first layer."""
    kinds = {Dinov2Embeddings: _Dinov2Embeddings, Dinov2WithRegistersEmbeddings: _Dinov2WithRegistersEmbeddings}
    # On the meta device nothing is drawn, so that weights drawn after these stay the ones they were.
    with torch.device("meta"):
        remembering = kinds[type(embeddings)](embeddings.config)
        convolution = embeddings.patch_embeddings.projection
        product = PatchConv2d(convolution.in_channels, convolution.out_channels, convolution.kernel_size[0])
    remembering.remembered = RememberedTable()
    for name, member in (*embeddings.named_parameters(recurse=False), *embeddings.named_children()):
        setattr(remembering, name, member)
    product.weight, product.bias = convolution.weight, convolution.bias
    remembering.patch_embeddings.projection = product
    return remembering


class Dinov2PatchEmbed(Dinov2WithRegistersModel):
    """DINOv2 with registers as VGGT uses it: patch tokens after the final norm, class and register tokens dropped.

    transformers' model is bit-identical to VGGT's own copy; only the parameter names differ (``weights.py`` maps them).
    """

    def __init__(self, name: str, patch_size: int, img_size: int):
        width, layers, heads = DINOV2_SIZES[name]
        sizes: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": img_size,
            "patch_size": patch_size,
            "num_register_tokens": DINOV2_REGISTERS,
        }
        super().__init__(Dinov2WithRegistersConfig(**sizes))
        self.embeddings = with_remembered_positions(self.embeddings)
        # In the checkpoint, but only masked pretraining uses it.
        self.embeddings.mask_token.requires_grad_(False)

    def forward(self, images_N3HW: Tensor) -> Tensor:  # type: ignore[override]
        """Map ``(N, 3, H, W)``, ImageNet-normalized, to ``(N, P, C)``."""
        hidden_NSC = super().forward(pixel_values=images_N3HW).last_hidden_state
        return hidden_NSC[:, 1 + DINOV2_REGISTERS :]


def build_patch_embed(
    name: str, *, patch_size: int, dim: int, img_size: int, grid: tuple[int, int] | None
) -> nn.Module:
    """Build a patch embedder ``(N, 3, H, W) -> (N, P, C)`` by name.

    Args:
        name: One of :data:`PATCH_EMBEDDERS`.
        patch_size: Pixels per patch side.
        dim: Token width C.
        img_size: Side in pixels that sizes DINOv2's position table (518 in VGGT-1B).
        grid: Patch grid, needed by ``conv_stem`` only.

    Raises:
        ValueError: For an unknown name, or a DINOv2 whose width is not ``dim``.
    """
    if name == "conv":
        return ConvPatchEmbed(patch_size, dim)
    if name == "conv_stem":
        if grid is None:
            raise ValueError("patch_embed='conv_stem' needs the patch grid.")
        return ConvStem(patch_size, dim, grid)
    if name in DINOV2_SIZES:
        if DINOV2_SIZES[name][0] != dim:
            raise ValueError(
                f"{name} is {DINOV2_SIZES[name][0]} wide but the aggregator is {dim} wide "
                "(--policy.vggt_patch_embed, --policy.vggt_embed_dim)."
            )
        return Dinov2PatchEmbed(name, patch_size, img_size)
    raise ValueError(
        f"Unknown patch embedder {name!r}; allowed: {', '.join(PATCH_EMBEDDERS)} (--policy.vggt_patch_embed)."
    )


class PatchTower(nn.Module):
    """One strided convolution, a learned position per patch and a norm: the tower of the original base recipe.

    Args:
        patch_size: Pixels per patch side.
        dim: Token width C.
        grid: Patches per (column, row) of an image; the position table has exactly this size.
    """

    def __init__(self, patch_size: int, dim: int, grid: tuple[int, int]):
        super().__init__()
        self.output_dim = dim
        self.scale = ImageNetScale()
        self.embed = ConvPatchEmbed(patch_size, dim)
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images_BV3HW: Tensor) -> Tensor:
        """Map RGB in [0, 1], ``(B, V, 3, H, W)``, to ``(B, V, P, C)``."""
        tokens_NPC = self.norm(self.embed(self.scale(images_BV3HW.flatten(0, 1))) + self.pos_embed)
        return tokens_NPC.unflatten(0, images_BV3HW.shape[:2])


class Dinov2Tower(nn.Module):
    """A DINOv2 from transformers, read at its final norm; class and register tokens dropped.

    Args:
        architecture: Sizes of the model under transformers' names; ``model_type`` is ``dinov2`` or
            ``dinov2_with_registers``. Other entries are left out (:mod:`.architecture_sizes`).

    Raises:
        ValueError: For another model type, or a size that is no number.
    """

    def __init__(self, architecture: Mapping[str, Any]):
        super().__init__()
        kind = architecture.get("model_type")
        if kind not in ("dinov2", "dinov2_with_registers"):
            raise ValueError(
                f"The vision tower's model type must be dinov2 or dinov2_with_registers, got {kind!r} "
                "(--policy.vision_tower)."
            )
        sizes = architecture_sizes(architecture)
        del sizes["model_type"]
        if kind == "dinov2":
            self.backbone: Dinov2Model | Dinov2WithRegistersModel = Dinov2Model(Dinov2Config(**sizes))
            registers = 0
        else:
            config = Dinov2WithRegistersConfig(**sizes)
            self.backbone = Dinov2WithRegistersModel(config)
            registers = config.num_register_tokens
        self.backbone.embeddings = with_remembered_positions(self.backbone.embeddings)
        # In most checkpoints, but only masked pretraining uses it.
        mask_token = getattr(self.backbone.embeddings, "mask_token", None)
        if mask_token is not None:
            mask_token.requires_grad_(False)
        self.first_patch = 1 + registers
        self.output_dim: int = self.backbone.config.hidden_size
        self.scale = ImageNetScale()

    def forward(self, images_BV3HW: Tensor) -> Tensor:
        """Map RGB in [0, 1], ``(B, V, 3, H, W)``, to ``(B, V, P, C)``."""
        images_N3HW = self.scale(images_BV3HW.flatten(0, 1)).to(next(self.backbone.parameters()).dtype)
        hidden_NSC = self.backbone(pixel_values=images_N3HW).last_hidden_state
        return hidden_NSC[:, self.first_patch :].unflatten(0, images_BV3HW.shape[:2])
