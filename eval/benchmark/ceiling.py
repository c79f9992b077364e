"""Measure what the machine's matrix products allow: their rate, one chunk's arithmetic, and the least time it takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Sides of the square matrices, by device: larger than the caches next to a core, as a model's own are.
SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
DTYPES = ("float32", "bfloat16")


def matmul_flops_per_s(device: str, dtype: str, seconds: float = 0.5) -> float:
    """Measure the best rate of ``torch.matmul`` in this process, with its threads and settings.

    Args:
        device: cpu or cuda.
        dtype: One of :data:`DTYPES`. On a GPU, float32 is TF32 where the process allows it.
        seconds: How long to try each size; at least three products each, the first of which does not count.

    Returns:
        FLOP per second, a product of two n x n matrices being 2 n**3 FLOP.
    """
    import torch

    found = 0.0
    for side in SIDES[device]:
        left = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        right = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        took = []
        finish = time.monotonic() + seconds
        while len(took) < 3 or time.monotonic() < finish:
            took.append(_seconds(device, lambda left=left, right=right: torch.matmul(left, right)))
        found = max(found, 2 * side**3 / min(took[1:]))
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def _seconds(device: str, call: Callable[[], Any]) -> float:
    import torch

    # On a GPU by its own clock: the time of a launch is no arithmetic.
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def flops_by_dtype(call: Callable[[], Any]) -> dict[str, int]:
    """Count the FLOP of the matrix products, convolutions and attentions of a call, by the dtype they run in.

    Counted by ``torch.utils.flop_counter``, to which PyTorch's attention for CPUs is added. Compiled parts run without
    compilation here, for a compiled kernel hides what it does.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

    found: Counter[str] = Counter()

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def noting(formula: Callable[..., int]) -> Callable[..., int]:
        def count(first: torch.Tensor, *rest: Any, **named: Any) -> int:
            flops = formula(first, *rest, **named)
            found[str(first.dtype).removeprefix("torch.")] += flops
            return flops

        # As register_flop_formula(get_raw=True) marks a formula that takes tensors instead of their shapes.
        count._get_raw = True  # pyrefly: ignore[missing-attribute]
        return count

    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    formulas = {operation: noting(formula) for operation, formula in (flop_registry | on_cpu).items()}
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=formulas):
        call()
    return dict(found)


def floor_s(flops: Mapping[str, int], ceiling: Mapping[str, float]) -> float | None:
    """Return the seconds that a call takes at least: the FLOP of each dtype at the rate of its matrix products.

    Args:
        flops: As :func:`flops_by_dtype`.
        ceiling: FLOP per second by dtype; of another dtype, None is returned.
    """
    if not flops or not flops.keys() <= ceiling.keys():
        return None
    return sum(count / ceiling[dtype] for dtype, count in flops.items())
