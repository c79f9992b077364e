"""Turn what ``eval.benchmark`` measured into rows, ratios, targets and a Markdown report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from eval.benchmark.ceiling import DTYPES, floor_s
from eval.benchmark.settings import split
from eval.common.markdown import origin, table, table_of

REFERENCES = ("smolvla", "act")
NOT_IN_RUN = "n/a: not in this run"
# Actions that everybody executes per chunk in one of the columns.
EXECUTED = 10

NOTE = """One process per policy and round, rounds in turn, so that a machine that slows down does so for all; quantiles
are over the calls of all rounds. *Spread* is how far the rounds' medians are apart, as a share of the lowest: a
difference between policies that is no larger means nothing. All weights are random, or made up in the released sizes:
nothing here says how well a policy acts."""
ACTING_NOTE = """Two cameras of 256 px, an 8-d state, a 7-d action, batch 1, warm. *Model-only*: `predict_action_chunk`
on a preprocessed batch on the device. *Sensor-to-action*: from uint8 images in NumPy through LeRobot's preparation,
preprocessor, `select_action` and postprocessor to an action in NumPy, on a step that predicts a chunk; *between*: the
same path on a step that finds an action in the queue. Actions per second: what this path allows."""
RATIO_NOTE = """To the quickest variant of the baseline in this run. Latency: model-only P50, lower is better. Training:
samples per second at the same batch size, higher is better."""
TRAINING_NOTE = """Forward, backward, clipping, the policy's own optimizer and parameter groups; the batch is
preprocessed and on the device before. Samples per second from the median step. Memory is the peak over these steps: of
tensors on a GPU, otherwise of the process (resident: Python, its libraries, mapped files and all). Steps before the
timed ones do not count: with `--weights`, a preset's frozen language model is released in them, as in training once
all instructions are encoded; random weights made in memory could not be read again and stay."""
FLOOR_NOTE = """What a chunk takes at least: the FLOP of its matrix products, convolutions and attentions, each at the
best rate that `torch.matmul` of square matrices reached in the same process with the same threads, right after the
timed chunks (best of all rounds; on a GPU float32 is TF32). The instruction is encoded once, so a preset's count is
without its language model. *Share*: the floor over the model-only P50."""
SIZE_NOTE = """Inference memory: peak of tensors on a GPU (without CUDA's own context); on a CPU the growth of the
process from before the policy was built to its peak while acting, and the whole process in brackets. Time to first
action is from the start of the process, and includes drawing random weights where a real policy would read a file."""


def summarize(name: str, rounds: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Return one row: the figures of a policy over all rounds.

    Args:
        name: The policy.
        rounds: Figures of ``eval.benchmark.worker``, with a chunk's latency in each.
        device: cpu or cuda.
    """
    last = rounds[-1]
    row: dict[str, Any] = {key: last[key] for key in ("precision", "notes", "parameters", "trained_parameters")}
    row |= {key: last[key] for key in ("chunk_size", "n_action_steps", "threads", "finite")}
    row |= {"policy": name, "rounds": len(rounds), "gpu": last.get("gpu")}
    for part in ("model", "sensor", "between"):
        row[part] = _latency([one[f"{part}_s"] for one in rounds])
    own, shared = row["n_action_steps"], min(EXECUTED, row["chunk_size"])
    row["actions_per_s"] = _actions_per_s(row, own)
    row["actions_per_s_at_10"] = _actions_per_s(row, EXECUTED) if shared == EXECUTED else None
    row |= _floor(rounds, row["model"]["p50_ms"])
    sizes = list(dict.fromkeys(entry["batch_size"] for one in rounds for entry in one.get("training", [])))
    row["training"] = [_training(size, rounds) for size in sizes]
    peak = max(one["inference_peak_bytes"] for one in rounds)
    grown = max(one["inference_peak_bytes"] - one["before_build_bytes"] for one in rounds)
    row |= {"inference_bytes": peak if device == "cuda" else grown, "process_bytes": None if device == "cuda" else peak}
    for part in ("imports_s", "build_s", "first_chunk_s", "time_to_first_action_s"):
        row[part] = statistics.median(one[part] for one in rounds)
    row["checkpoint_bytes"] = next((one["checkpoint_bytes"] for one in rounds if "checkpoint_bytes" in one), None)
    errors = [one[key] for one in rounds for key in ("failed", "checkpoint_error") if key in one]
    return row | {"errors": list(dict.fromkeys(errors))}


def _latency(rounds: Sequence[Sequence[float]]) -> dict[str, float | None]:
    every = np.concatenate(rounds) * 1000
    if not every.size:
        return {"p50_ms": None, "p95_ms": None, "spread": None}
    p50, p95 = np.percentile(every, (50, 95))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "spread": _spread(rounds)}


def _spread(rounds: Sequence[Sequence[float]]) -> float | None:
    medians = [statistics.median(values) for values in rounds if len(values)]
    return max(medians) / min(medians) - 1 if len(medians) > 1 else None


def _floor(rounds: Sequence[Mapping[str, Any]], p50_ms: float | None) -> dict[str, Any]:
    """Return the arithmetic of a chunk, the machine's best rates, and the share of the chunk that they explain."""
    ceilings = [one["ceiling_flops_per_s"] for one in rounds if "ceiling_flops_per_s" in one]
    ceiling = {dtype: max(rates[dtype] for rates in ceilings) for dtype in DTYPES if ceilings}
    flops = next((one["chunk_flops"] for one in rounds if "chunk_flops" in one), {})
    at_least_s = floor_s(flops, ceiling)
    floor_ms = None if at_least_s is None else 1000 * at_least_s
    share = floor_ms / p50_ms if floor_ms and p50_ms else None
    return {"ceiling_flops_per_s": ceiling, "chunk_flops": flops, "floor_ms": floor_ms, "floor_share": share}


def _actions_per_s(row: Mapping[str, Any], executed: int) -> float:
    # A policy that executes one action per chunk has no steps between.
    between_ms = row["between"]["p50_ms"] or 0.0
    return 1000 * executed / (row["sensor"]["p50_ms"] + (executed - 1) * between_ms)


def _training(size: int, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    entries = [entry for one in rounds for entry in one.get("training", []) if entry["batch_size"] == size]
    measured = [entry for entry in entries if "step_s" in entry]
    if not measured:
        return {"batch_size": size, "error": entries[0]["error"]}
    steps = [entry["step_s"] for entry in measured]
    return {
        "batch_size": size,
        "samples_per_s": size / statistics.median(np.concatenate(steps).tolist()),
        "spread": _spread(steps),
        "peak_bytes": max(entry["peak_bytes"] for entry in measured),
    }


def trained_at(row: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """Return the training figures at one batch size; None if it was not measured."""
    return next((e for e in row["training"] if e["batch_size"] == size and "samples_per_s" in e), None)


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Give every row its ratios to the quickest variant of each reference in the same run; None without one."""
    for row in rows:
        row["ratios"] = {}
        for baseline in REFERENCES:
            variants = [other for other in rows if split(other["policy"])[0] == baseline]
            latency = min((other["model"]["p50_ms"] for other in variants), default=None)
            training = {}
            for entry in row["training"]:
                size = entry["batch_size"]
                theirs = [found["samples_per_s"] for other in variants if (found := trained_at(other, size))]
                mine = entry.get("samples_per_s")
                training[str(size)] = mine / max(theirs) if mine and theirs else None
            row["ratios"][baseline] = {
                "latency": row["model"]["p50_ms"] / latency if latency else None,
                "training": training,
            }


def floors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line on the machine's ceiling, and one on the floor of each policy, for the terminal."""
    known = [row for row in rows if row["floor_ms"] is not None]
    if not known:
        return []
    best = {dtype: max(row["ceiling_flops_per_s"][dtype] for row in known) / 1e9 for dtype in DTYPES}
    threads = max(row["threads"] for row in known)
    rates = ", ".join(f"{dtype} {_n(rate)} GFLOP/s" for dtype, rate in best.items())
    return [
        f"ceiling of matrix products: {rates}, {threads} threads",
        *(
            f"floor: {row['policy']}: {_n(row['floor_ms'])} ms of {_n(row['model']['p50_ms'])} ms a chunk, "
            f"{_percent(row['floor_share'])}"
            for row in known
        ),
    ]


def benchmark_page(content: Mapping[str, Any]) -> str:
    """Return the Markdown report of ``eval.benchmark``: times and memory of acting and training, and their ratios.

    Args:
        content: Content of ``report.json``.
    """
    rows, settings = content["rows"], content["settings"]
    lines = [f"# Speed and size, side by side: {content['name']}", "", *NOTE.splitlines(), ""]
    if not content["complete"]:
        lines += ["> **The run has not ended: these figures are preliminary.**", ""]
    if not rows:
        lines += ["No policy could be measured.", ""]
    else:
        lines += ["![latency and training throughput](report.png)", "", "## Acting", "", *ACTING_NOTE.splitlines(), ""]
        lines += [*acting_table(rows), "", "## Training", "", *TRAINING_NOTE.splitlines(), ""]
        lines += [*training_table(rows, settings["batch_sizes"]), ""]
        lines += ["## Ratios", "", *RATIO_NOTE.splitlines(), "", *ratio_table(rows, settings["batch_sizes"]), ""]
        if any(row["chunk_flops"] for row in rows):
            lines += ["## Arithmetic and its floor", "", *FLOOR_NOTE.splitlines(), "", *floor_table(rows), ""]
        lines += ["## Size and start", "", *SIZE_NOTE.splitlines(), "", *size_table(rows), ""]
        lines += ["## How each was built", ""]
        lines += [f"- {row['policy']}: {'; '.join([row['precision'], *row['notes'], *row['errors']])}" for row in rows]
        lines += [""]
    if content["not_measured"]:
        lines += ["## Not measured", "", *(f"- {name}: {why}" for name, why in content["not_measured"].items()), ""]
    asked = [(t["policy"], t["metric"], t["measured"], _STATES[t["state"]]) for t in content["targets"]]
    lines += ["## Targets", "", *table(("policy", "target", "measured", "state"), asked), ""]
    gpus = {f"GPU right after acting, {row['policy']}": ", ".join(row["gpu"].values()) for row in rows if row["gpu"]}
    commands = [f"`{command}`" for command in content["commands"]]
    return "\n".join([*lines, *origin(commands, content["environment"] | gpus)])


_STATES = {"met": "met", "missed": "**missed**", "unmeasured": "unmeasured"}


def acting_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show latencies and actions per second."""
    return table_of(
        rows,
        _POLICY,
        ("model-only P50 / P95, ms", lambda row: f"{_n(row['model']['p50_ms'])} / {_n(row['model']['p95_ms'])}"),
        ("spread", lambda row: _percent(row["model"]["spread"])),
        (
            "sensor-to-action P50 / P95, ms",
            lambda row: f"{_n(row['sensor']['p50_ms'])} / {_n(row['sensor']['p95_ms'])}",
        ),
        ("spread", lambda row: _percent(row["sensor"]["spread"])),
        ("between P50, ms", lambda row: _n(row["between"]["p50_ms"])),
        ("chunk: predicted / executed", lambda row: f"{row['chunk_size']} / {row['n_action_steps']}"),
        ("actions/s, own / 10 executed", lambda row: f"{_n(row['actions_per_s'])} / {_at_10(row)}"),
    )


def _at_10(row: Mapping[str, Any]) -> str:
    at_10 = row["actions_per_s_at_10"]
    return f"predicts {row['chunk_size']}" if at_10 is None else _n(at_10)


def training_table(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[str]:
    """Show samples per second and memory by batch size."""

    def cell(row: Mapping[str, Any], size: int) -> str:
        missing: Mapping[str, Any] = {"error": "not reached"}
        entry = next((e for e in row["training"] if e["batch_size"] == size), missing)
        if "error" in entry:
            return str(entry["error"])
        gb = f"{entry['peak_bytes'] / 1e9:.2f} GB"
        return f"{_n(entry['samples_per_s'])} (spread {_percent(entry['spread'])}), {gb}"

    columns = [(f"batch {size}: samples/s, peak", partial(cell, size=size)) for size in sorted(sizes)]
    return table_of(rows, _POLICY, *columns)


def ratio_table(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[str]:
    """Show the ratios to the references."""

    def cell(row: Mapping[str, Any], baseline: str, size: int | None) -> str:
        ratios = row["ratios"][baseline]
        ratio = ratios["latency"] if size is None else ratios["training"].get(str(size))
        if ratio is None:
            return NOT_IN_RUN if ratios["latency"] is None else "-"
        return f"{ratio:.2f}x"

    columns = [
        (
            f"samples/s / {baseline}, batch {size}" if size else f"latency / {baseline}",
            partial(cell, baseline=baseline, size=size),
        )
        for baseline in REFERENCES
        for size in (None, *sorted(sizes))
    ]
    return table_of(rows, _POLICY, *columns)


def floor_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show the arithmetic of a chunk, the machine's ceiling and the share reached."""

    def rate(row: Mapping[str, Any], dtype: str) -> str:
        flops_per_s = row["ceiling_flops_per_s"].get(dtype)
        return "-" if flops_per_s is None else _n(flops_per_s / 1e9)

    def arithmetic(row: Mapping[str, Any]) -> str:
        return ", ".join(f"{_n(flops / 1e9)} {dtype}" for dtype, flops in row["chunk_flops"].items()) or "-"

    return table_of(
        rows,
        _POLICY,
        ("a chunk, GFLOP", arithmetic),
        (f"ceiling {' / '.join(DTYPES)}, GFLOP/s", lambda row: " / ".join(rate(row, dtype) for dtype in DTYPES)),
        ("floor, ms", lambda row: _n(row["floor_ms"])),
        ("model-only P50, ms", lambda row: _n(row["model"]["p50_ms"])),
        ("share", lambda row: "-" if row["floor_share"] is None else _percent(row["floor_share"])),
    )


def size_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show memory, parameters, files and the time of a start."""
    return table_of(
        rows,
        _POLICY,
        (
            "parameters: all / trainable, M",
            lambda row: f"{row['parameters'] / 1e6:,.1f} / {row['trained_parameters'] / 1e6:,.1f}",
        ),
        (
            "inference memory, GB",
            lambda row: (
                f"{row['inference_bytes'] / 1e9:.2f}"
                + (f" ({row['process_bytes'] / 1e9:.2f})" if row["process_bytes"] else "")
            ),
        ),
        (
            "checkpoint, MB",
            lambda row: "-" if row["checkpoint_bytes"] is None else f"{row['checkpoint_bytes'] / 1e6:,.1f}",
        ),
        ("time to first action, s", lambda row: f"{row['time_to_first_action_s']:.1f}"),
        (
            "imports / build / first chunk, s",
            lambda row: " / ".join(f"{row[part]:.2f}" for part in ("imports_s", "build_s", "first_chunk_s")),
        ),
    )


_POLICY = ("policy", itemgetter("policy"))


def _n(value: float | None) -> str:
    """Return a number with three digits and without an exponent, or ``-`` for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "one round" if value is None else f"{100 * value:.0f} %"
