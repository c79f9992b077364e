"""Hold a benchmark against its targets: those of the default preset, of the two with DA3, and of the tiny one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.benchmark.pages.report import NOT_IN_RUN, trained_at
from eval.benchmark.settings import DEFAULT_PRESET, split

TARGET_GPUS = ("H100", "H200")
CPU_PRESET = "atlasvla_tiny"
CACHED_PRESET = f"{DEFAULT_PRESET}+cache"
CACHED = "training samples/s from the feature cache over SmolVLA's, batch 16"


@dataclass(frozen=True)
class Target:
    """Hold one target and how it came out.

    Attributes:
        policy: Row of the run, or the preset that is not in it.
        metric: What is asked, with its limit.
        measured: What was found.
        state: met, missed or unmeasured.
    """

    policy: str
    metric: str
    measured: str
    state: str


@dataclass(frozen=True)
class DA3Limits:
    """Hold what is asked of a preset with DA3: ratios to SmolVLA in the same run, GB, ms on a GPU."""

    latency: float
    training: float
    memory_gb: float
    gpu_ms: float | None = None


DA3_LIMITS = {
    "atlasvla_da3_small": DA3Limits(latency=0.05, training=8.0, memory_gb=3.0),
    "atlasvla_da3_base": DA3Limits(latency=0.15, training=3.0, memory_gb=5.0, gpu_ms=3.0),
}
# Within 10 % of the time that the matrix products alone take.
FLOOR_SHARE = 0.91


def targets(rows: Sequence[Mapping[str, Any]], device: str, gpu: str) -> list[Target]:
    """Return the targets of every row of the default preset, and those of DA3's presets and of a CPU's tiny one.

    Args:
        rows: With their ratios.
        device: cpu or cuda.
        gpu: Name of the GPU, empty without one.
    """
    elsewhere = "" if any(name in gpu for name in TARGET_GPUS) else f"needs an {' or '.join(TARGET_GPUS)}"
    absolute = f"{elsewhere}, this is {gpu or 'a CPU'}" if elsewhere else ""
    on_gpu = "" if device == "cuda" else "needs a GPU"
    found = []
    for policy, row in _rows_of(DEFAULT_PRESET, rows):
        latency, checkpoint = (row["model"]["p50_ms"], row["checkpoint_bytes"]) if row else (None, None)
        inference, share = (row["inference_bytes"] / 1e9, row["floor_share"]) if row else (None, None)
        if "cache" in split(policy)[1]:
            found.append(_target(policy, CACHED, _faster(row), ">=", 10.0, "x"))
            continue
        found += [
            _target(policy, "chunk latency, two views, model-only P50", latency, "<=", 6.9, "ms", absolute),
            _target(policy, "chunk latency over SmolVLA's", _slower(row), "<=", 0.5, "x", on_gpu),
            _target(policy, "chunk latency over SmolVLA's, bfloat16", _slower(row), "<=", 0.7, "x", _bfloat16(row)),
            _target(policy, "share of the chunk that is arithmetic", share, ">=", FLOOR_SHARE, ""),
            _target(policy, "training samples/s over SmolVLA's, batch 16", _faster(row), ">=", 1.0, "x"),
            _target(policy, "training memory, batch 8", _memory_gb(row), "<=", 10.0, "GB", on_gpu),
            _target(policy, "inference memory", inference, "<=", 3.0, "GB", on_gpu),
            _target(policy, "checkpoint", checkpoint and checkpoint / 1e6, "<=", 300.0, "MB"),
        ]
    if CACHED_PRESET not in [row["policy"] for row in rows]:
        found.append(_target(CACHED_PRESET, CACHED, None, ">=", 10.0, "x"))
    for row in rows:
        if limits := DA3_LIMITS.get(split(row["policy"])[0]):
            found += _of_da3(row, limits, absolute)
    for policy, row in _rows_of(CPU_PRESET, rows) if device == "cpu" else []:
        best = max((entry.get("samples_per_s", 0.0) for entry in row["training"]), default=None) if row else None
        latency, cores = (row["sensor"]["p50_ms"], row["threads"]) if row else (None, 0)
        why = f"asks for two cores, this used {cores} threads" if cores > 2 else ""
        found += [
            _target(policy, "CPU: chunk latency, sensor-to-action P50", latency, "<=", 15.0, "ms", why),
            _target(policy, "CPU: training samples/s, best batch size", best, ">=", 300.0, "/s", why),
        ]
    return found


def _of_da3(row: Mapping[str, Any], limits: DA3Limits, absolute: str) -> list[Target]:
    policy = row["policy"]
    if "cache" in split(policy)[1]:
        return []
    found = [
        _target(policy, "chunk latency over SmolVLA's", _slower(row), "<=", limits.latency, "x"),
        _target(policy, "training samples/s over SmolVLA's, batch 16", _faster(row), ">=", limits.training, "x"),
        _target(
            policy, "training memory, batch 8, bfloat16", _memory_gb(row), "<=", limits.memory_gb, "GB", _bfloat16(row)
        ),
    ]
    if limits.gpu_ms:
        p50_ms = row["model"]["p50_ms"]
        found.append(_target(policy, "chunk latency, model-only P50", p50_ms, "<=", limits.gpu_ms, "ms", absolute))
    return found


def _slower(row: Mapping[str, Any] | None) -> float | None:
    return row["ratios"]["smolvla"]["latency"] if row else None


def _faster(row: Mapping[str, Any] | None) -> float | None:
    return row["ratios"]["smolvla"]["training"].get("16") if row else None


def _memory_gb(row: Mapping[str, Any] | None) -> float | None:
    found = trained_at(row, 8) if row else None
    return found["peak_bytes"] / 1e9 if found else None


def _bfloat16(row: Mapping[str, Any] | None) -> str:
    return "" if row and "bfloat16" in row["precision"] else "needs --dtype=bfloat16"


def _rows_of(preset: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any] | None]]:
    found: list[tuple[str, Mapping[str, Any] | None]] = [
        (row["policy"], row) for row in rows if split(row["policy"])[0] == preset
    ]
    return found or [(preset, None)]


def _target(
    policy: str, metric: str, value: float | None, sign: str, limit: float, unit: str, obstacle: str = ""
) -> Target:
    """``obstacle`` is why the value, if there is one, does not decide."""
    text = f"{metric} {sign} {limit:g} {unit}".strip()
    shown = NOT_IN_RUN if value is None else f"{value:.3g} {unit}".strip()
    if obstacle or value is None:
        return Target(policy, text, f"{shown} ({obstacle})" if obstacle else shown, "unmeasured")
    met = value <= limit if sign == "<=" else value >= limit
    return Target(policy, text, shown, "met" if met else "missed")
