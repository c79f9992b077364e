"""Put the geometry blocks of a policy out of action for a while: as noise, or removed.

Both only overwrite parameters in place and write the old values back. Neither hooks nor modules are exchanged, so a
compiled policy (``compile_model``), frozen blocks and blocks with adapters inside (PEFT) are changed all the same.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_atlasvla.model.layers import LayerScale
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights.peft import without_adapter


def blocks_as_noise(policy: Any, seed: int) -> AbstractContextManager[None]:
    """Replace every weight matrix of all frame and global blocks by noise, within a ``with`` block.

    The noise is Gaussian with mean zero and the standard deviation of the matrix that it replaces. Norms, biases and
    layer scales stay. Matrices of an adapter inside the blocks are replaced, too.

    Args:
        policy: An AtlasVLA policy, with or without an adapter (PEFT) around it.
        seed: Seed of the noise; PyTorch's own generators are not touched.

    Raises:
        ValueError: If the policy has no such blocks, or they can't be changed (see the message).
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(weight: Tensor) -> Tensor:
        return torch.randn(weight.shape, generator=generator) * weight.float().std(correction=0).cpu()

    matrices = [parameter for block in _blocks(policy) for parameter in block.parameters() if parameter.ndim >= 2]
    return _replaced(matrices, noise)


def blocks_removed(policy: Any) -> AbstractContextManager[None]:
    """Make every frame and global block the identity, within a ``with`` block.

    The layer scales of both residual branches are set to zero, so that a block hands on its input as it is.

    Args:
        policy: An AtlasVLA policy, with or without an adapter (PEFT) around it.

    Raises:
        ValueError: If the policy has no such blocks, or they can't be changed (see the message).
    """
    scales = []
    for block in _blocks(policy):
        found = [module.gamma for module in block.modules() if isinstance(module, LayerScale)]
        if len(found) < 2:
            raise ValueError(
                f"A block is removed by setting its two layer scales to zero; {type(block).__name__} has {len(found)}."
            )
        scales += found
    return _replaced(scales, torch.zeros_like)


def _blocks(policy: Any) -> list[nn.Module]:
    whole = without_adapter(policy)
    if not isinstance(whole, AtlasVLAPolicy):
        kind = getattr(whole, "name", type(whole).__name__)
        raise ValueError(
            f"Only a policy of type {AtlasVLAPolicy.name} has geometry blocks; this one is of type {kind}."
        )
    if whole.config.feature_cache:
        raise ValueError(
            f"The policy reads what its blocks compute from feature_cache={whole.config.feature_cache}, so changing "
            "them would show nothing; load it without one."
        )
    aggregator = whole.model.aggregator
    if aggregator is None or whole.config.vggt_blocks == "removed":
        why = "reads no image" if aggregator is None else "was trained without them (vggt_blocks=removed)"
        raise ValueError(f"The policy has no geometry blocks: it {why}.")
    blocks = aggregator.geometry_blocks()
    fixed = next(
        (weight.dtype for block in blocks for weight in block.parameters() if not weight.is_floating_point()), 0
    )
    if fixed:
        raise ValueError(f"The geometry blocks hold weights of type {fixed}; only floating-point ones can be replaced.")
    return blocks


@contextmanager
def _replaced(parameters: list[nn.Parameter], replacement: Callable[[Tensor], Tensor]) -> Iterator[None]:
    # In host memory: a backbone's blocks may fill half of a GPU.
    kept = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(replacement(parameter.detach()))
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
