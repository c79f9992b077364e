"""Runs our aggregator on a golden case: ``check_golden.py GOLDEN_DIR tests.golden.adapter:run``."""

from typing import Any

from torch import Tensor

from lerobot_atlasvla.model.vggt import Aggregator
from lerobot_atlasvla.model.weights import AGGREGATOR_PREFIX, from_vggt


def run(meta: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Build the case's aggregator, load its weights strictly, return all layers."""
    aggregator = Aggregator(**meta["aggregator_kwargs"]).eval()
    names = {k.removeprefix(AGGREGATOR_PREFIX): w for k, w in weights.items() if k.startswith(AGGREGATOR_PREFIX)}
    aggregator.load_state_dict(from_vggt(names))
    output = aggregator(images)
    return {
        "layers": output.layers,
        "patch_start_idx": output.patch_start_idx,
        "patch_tokens": output.patch_tokens_BVPC.flatten(0, 1),
    }
