"""Tell the weight files of VGGT and of Depth Anything 3 apart, and the sizes of DA3 by its shapes.

All are called ``model.safetensors``, so a file says what it is by the names and shapes of its tensors; a backbone made
by ``atlasvla-pretrain`` by the record beside it as well.
"""

import re
from collections.abc import Mapping
from statistics import mode
from typing import Any

from lerobot_atlasvla.model.geometry.record import FILE, GeometryRecord, RecordError, read_record
from lerobot_atlasvla.model.sizes.architecture import DINOV2_SIZES
from lerobot_atlasvla.policy.checks.config import DA3_REFUSED, DA3_SUPPORTED

from .download import ResolvedWeights, WeightsError, listing
from .tensor_files import read_shapes
from .vggt_state_dict import AGGREGATOR_PREFIX, HEADS_PREFIX

# The Hub's files, converted copies, the encoder alone.
DA3_PREFIXES = ("model.backbone.pretrained.", "backbone.pretrained.", "")
# Width -> (depth, heads).
DA3_SIZES = {384: (12, 6), 768: (12, 12)}
# Of these only the widths matter: nothing else tells the two series from SMALL and BASE sooner.
DA3_TOO_LARGE = {1024: "DA3-LARGE", 1536: "DA3-GIANT"}
_AS_WIDE_AS_THE_MODEL = ("norm.weight", "norm.bias", "cls_token", "pos_embed", "camera_token")
_PAIR = re.compile(r"frame_blocks\.(\d+)\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# DA3NESTED-GIANT-LARGE keeps two networks under these.
_NESTED = re.compile(r"(model\.)?da3(_metric)?\.backbone\.")

Shapes = Mapping[str, tuple[int, ...]]


def vggt_record(resolved: ResolvedWeights, flag: str) -> GeometryRecord | None:
    """Return the record beside VGGT's weights; None for weights that need none, such as VGGT-1B's.

    Raises:
        WeightsError: If it is damaged, or missing beside the weights of a backbone made by ``atlasvla-pretrain``.
    """
    try:
        record = read_record(resolved.folder)
    except RecordError as error:
        raise WeightsError(f"{error} ({flag}).") from error
    if record is None and any(name.startswith(HEADS_PREFIX) for name in read_shapes(resolved.weights)):
        raise WeightsError(
            f"{resolved.name} holds a geometry backbone made by atlasvla-pretrain, whose {FILE} is missing in "
            f"{resolved.folder} or another model's: copy the whole folder again ({flag})."
        )
    return record


def check_vggt(resolved: ResolvedWeights, flag: str) -> None:
    """Refuse DA3's weights where VGGT's are wanted; whatever else is wrong shows when the tensors are read.

    Raises:
        WeightsError: If the files hold a DA3.
    """
    names = read_shapes(resolved.weights)
    if _is_vggt(names):
        return
    bare = "camera_token" in names and any(_BLOCK.match(name) for name in names)
    if bare or any(name.startswith(DA3_PREFIXES[:2]) or _NESTED.match(name) for name in names):
        raise WeightsError(
            f"{resolved.name} holds a Depth Anything 3 and no VGGT ({flag}); for DA3, use --policy.vision=da3 "
            f"--policy.da3_model={resolved.name}."
        )


def vggt_settings(resolved: ResolvedWeights, flag: str) -> dict[str, Any]:
    """Return the settings ``vggt_*`` that fit the weights of a VGGT, by the shapes of its tensors.

    Raises:
        WeightsError: If the files hold no VGGT, or one with another patch embedder than a released one has.
    """
    check_vggt(resolved, flag)
    whole = read_shapes(resolved.weights)
    # Under the prefix, or bare.
    shapes = {name.removeprefix(AGGREGATOR_PREFIX): shape for name, shape in whole.items()}
    pairs = [int(match[1]) for name in shapes if (match := _PAIR.match(name))]
    width = (shapes.get("camera_token") or (0,))[-1]
    registers = (0, *(shapes.get("register_token") or ()))[-2:][0]
    head = (shapes.get("frame_blocks.0.attn.q_norm.weight") or (0,))[0]
    conv, dino = shapes.get("patch_embed.proj.weight"), shapes.get("patch_embed.patch_embed.proj.weight")
    names = {size[0]: name for name, size in DINOV2_SIZES.items()}
    patch_embed = "conv" if conv else names.get(width) if dino else None
    if not (pairs and head and width) or width % head or patch_embed is None:
        raise WeightsError(
            f"{resolved.name} holds no VGGT whose sizes can be told: it needs a camera_token, frame_blocks.* and a "
            f"patch_embed with a convolution or a DINOv2 (it has {listing(list(whole))}) ({flag})."
        )
    return {
        "vggt_patch_embed": patch_embed,
        "vggt_patch_size": (conv or dino or (0,))[-1],
        "vggt_embed_dim": width,
        "vggt_depth": 1 + max(pairs),
        "vggt_num_heads": width // head,
        "vggt_num_register_tokens": registers,
    }


def da3_architecture(resolved: ResolvedWeights, flag: str) -> dict[str, Any]:
    """Return the arguments of :class:`~lerobot_atlasvla.model.geometry.da3.DA3Encoder` that fit the weights.

    Raises:
        WeightsError: If the files hold no DA3, or one that sees one view at a time, is nested, or is not supported.
    """
    whole = read_shapes(resolved.weights)
    if _is_vggt(whole):
        raise WeightsError(
            f"{resolved.name} holds a VGGT and no Depth Anything 3 ({flag}); for VGGT, use --policy.vision=vggt "
            f"--policy.vggt_model={resolved.name}."
        )
    if any(_NESTED.match(name) for name in whole):
        raise WeightsError(
            f"{resolved.name} is a nested Depth Anything 3, which {DA3_REFUSED['NESTED']}; {DA3_SUPPORTED} ({flag})."
        )
    shapes = _below(whole)
    widths = [shapes[name][-1] for name in _AS_WIDE_AS_THE_MODEL if shapes.get(name)]
    blocks = [int(match[1]) for name in shapes if (match := _BLOCK.match(name))]
    if not widths or not blocks:
        raise WeightsError(
            f"{resolved.name} holds no Depth Anything 3: nothing in it is called {DA3_PREFIXES[0]}* (it has "
            f"{listing(list(whole))}); {DA3_SUPPORTED} ({flag})."
        )
    # One of them may be damaged, which is found when the tensors are read.
    width = mode(widths)
    norms = [shape[-1] for name, shape in shapes.items() if shape and name.endswith(".q_norm.weight")]
    if not norms and "camera_token" not in shapes:
        raise WeightsError(
            f"{resolved.name} is a monocular or metric Depth Anything 3 or a plain DINOv2 (it has no camera_token), "
            f"which {DA3_REFUSED['DA3MONO']}; {DA3_SUPPORTED} ({flag})."
        )
    if width in DA3_TOO_LARGE:
        raise WeightsError(
            f"{resolved.name} is {DA3_TOO_LARGE[width]} by its width of {width}, which {DA3_REFUSED['LARGE']}; "
            f"{DA3_SUPPORTED} ({flag})."
        )
    # Nor may a damaged norm make up heads that no encoder can have.
    head_dim = next((size for size in norms if size and size % 4 == 0 and width % size == 0), 64)
    depth, heads = DA3_SIZES.get(width, (1 + max(blocks), max(1, width // head_dim)))
    return {"embed_dim": width, "depth": depth, "num_heads": heads}


def _is_vggt(names: Shapes) -> bool:
    return any(name.startswith((AGGREGATOR_PREFIX, "frame_blocks.")) for name in names)


def _below(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The encoder's tensors without what the file puts before their names; empty if there are none."""
    for prefix in DA3_PREFIXES:
        found = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        if any(_BLOCK.match(name) for name in found):
            return found
    return {}
