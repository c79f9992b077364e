"""Measure one policy in a fresh process, for ``eval.benchmark``: build it, act, train, save.

``python -m eval.benchmark.worker --policy=act --out=act.json``. The file is written after every stage, so what was
measured before a process runs out of memory or time is kept. Whatever a policy raises is its result.
"""

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus

from eval.benchmark.ceiling import DTYPES, flops_by_dtype, matmul_flops_per_s
from eval.benchmark.policies import TASK, Built, build, classes, raw_batch, raw_observation
from eval.benchmark.settings import Measurement, split
from eval.common.commands import GIB
from eval.common.files import json_text
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.utils.errors import first_line

GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "temperature.gpu")
# Steps between two chunks that are timed per chunk, so that a policy of 100 actions takes no longer than one of 10.
BETWEEN = 5


@dataclass(kw_only=True)
class WorkerConfig(Measurement):
    """Hold the settings of one policy in one round."""

    # As in eval.benchmark.
    policy: str
    # Where the figures go, as JSON.
    out: Path
    # cpu or cuda.
    device: str = "cpu"
    # float32 or bfloat16.
    dtype: str = "float32"
    # Whether to write a checkpoint and measure it.
    checkpoint: bool = True
    # Settings of the policy.
    overrides: dict[str, Any] = field(default_factory=dict)
    # When the process was started, on the system's monotonic clock, seconds; 0 is now.
    started: float = 0


class Recorder:
    """Keep the figures so far, and the stage that comes next, in a file."""

    def __init__(self, out: Path, policy: str):
        self.out = out
        self.figures: dict[str, Any] = {"policy": policy, "stage": "imports"}

    def stage(self, name: str, **figures: Any) -> None:
        """Keep figures and begin another stage."""
        self.figures |= {"stage": name} | figures
        write_text(self.out, json_text(self.figures))
        sys.stdout.write(f"{self.figures['policy']}: {name}\n")
        sys.stdout.flush()


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a lack of memory; on a CPU, PyTorch raises it as a RuntimeError."""
    import torch

    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text or "bad_alloc" in text


class Meter:
    """Measure time and memory on one device."""

    def __init__(self, device: str):
        import torch

        self.cuda = torch.cuda if device == "cuda" else None

    def finish(self) -> None:
        """Wait until the device has done all that was asked."""
        if self.cuda:
            self.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> float:
        """Measure the seconds until a call's work is done."""
        self.finish()
        started = time.perf_counter()
        call()
        self.finish()
        return time.perf_counter() - started

    def reset_peak(self) -> None:
        """Let :meth:`peak` count from what is in use now."""
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        else:
            # 5: the kernel sets the peak to what is resident now.
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most bytes since :meth:`reset_peak`: tensors on the GPU, or resident memory of the process."""
        return self.cuda.max_memory_allocated() if self.cuda else resident("VmHWM")

    def now(self) -> int:
        """Return the number of bytes in use."""
        return self.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def reserved_peak(self) -> int | None:
        """Return what PyTorch took from the GPU for them, free blocks included."""
        return self.cuda.max_memory_reserved() if self.cuda else None


def resident(entry: str) -> int:
    """Return the resident memory in bytes: VmRSS now, VmHWM at most."""
    return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0]) * 1024


def limit_memory(device: str, gib: float | None) -> None:
    """Let a request for more memory fail, where otherwise the machine would slow down or end a process."""
    if not gib:
        return
    if device == "cuda":
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
    else:
        size = int(gib * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def gpu_state() -> dict[str, str]:
    """Return the name, driver and clocks of the GPU now."""
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader", "--id=0"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return {"nvidia-smi": first_line(error, 300, kind=True)}
    return dict(zip(GPU_FIELDS, (value.strip() for value in shown.strip().split(",")), strict=True))


def autocast(built: Built, dtype: Any) -> Any:
    """Return a context with autocast to a dtype; None is none."""
    import torch

    return nullcontext() if dtype is None else torch.autocast(built.policy.config.device, dtype=dtype)


def acting_step(built: Built) -> Callable[[], Any]:
    """Take one step of the sensor-to-action path, from NumPy to NumPy, as LeRobot's robot loop makes it."""
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    observation, device = raw_observation(), torch.device(built.policy.config.device)

    def step() -> Any:
        with torch.inference_mode(), autocast(built, built.act_autocast):
            batch = built.preprocess(prepare_observation_for_inference(dict(observation), device, TASK, ""))
            return built.postprocess(built.policy.select_action(batch)).numpy()

    return step


def acting(cfg: WorkerConfig, built: Built, meter: Meter) -> dict[str, Any]:
    """Measure the seconds of chunks and of steps between them, and the memory this takes."""
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    policy, step = built.policy, acting_step(built)
    executed = policy.config.n_action_steps
    observation = prepare_observation_for_inference(raw_observation(), torch.device(policy.config.device), TASK, "")
    meter.reset_peak()
    sensor, between, model = [], [], []
    with torch.inference_mode(), autocast(built, built.act_autocast):
        batch = built.preprocess(observation)
        # Both ways in turn, so that another load of the machine meets both.
        for number in range(cfg.warmup + cfg.repetitions):
            # Empties the queue, so that this step predicts.
            policy.reset()
            chunk_s = meter.seconds(step)
            rest = [meter.seconds(step) for _ in range(min(BETWEEN, executed - 1))]
            model_s = meter.seconds(lambda: policy.predict_action_chunk(dict(batch)))
            if number >= cfg.warmup:
                sensor.append(chunk_s)
                between += rest
                model.append(model_s)
        chunk = policy.predict_action_chunk(dict(batch))
    return {
        "model_s": model,
        "sensor_s": sensor,
        "between_s": between,
        "chunk_size": chunk.shape[1],
        "n_action_steps": executed,
        "finite": bool(chunk.isfinite().all()),
        "inference_peak_bytes": meter.peak(),
        "inference_bytes": meter.now(),
        "inference_reserved_bytes": meter.reserved_peak(),
    } | ({"gpu": gpu_state()} if meter.cuda else {})


def arithmetic(cfg: WorkerConfig, built: Built) -> dict[str, Any]:
    """Measure the machine's matrix products in this process, and count the FLOP of one warm chunk by dtype."""
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    figures: dict[str, Any] = {
        "ceiling_flops_per_s": {dtype: matmul_flops_per_s(cfg.device, dtype) for dtype in DTYPES}
    }
    observation = prepare_observation_for_inference(raw_observation(), torch.device(cfg.device), TASK, "")
    try:
        with torch.inference_mode(), autocast(built, built.act_autocast):
            batch = built.preprocess(observation)
            figures["chunk_flops"] = flops_by_dtype(lambda: built.policy.predict_action_chunk(dict(batch)))
    except Exception as error:  # noqa: BLE001  # Without the count there is no floor, and nothing else is missing.
        figures["chunk_flops_error"] = first_line(error, 300, kind=True)
    return figures


def training(cfg: WorkerConfig, built: Built, meter: Meter, recorder: Recorder) -> list[dict[str, Any]]:
    """Measure seconds of training steps and peak memory, by batch size; an error other than lack of memory ends it."""
    policy, found = built.policy, []
    optimizer_config = policy.config.get_optimizer_preset()
    optimizer = optimizer_config.build(policy.get_optim_params())
    for size in sorted(cfg.batch_sizes):
        recorder.stage(f"training at batch {size}", training=found)
        try:
            found.append(train(cfg, built, meter, optimizer, optimizer_config, size))
        except Exception as error:  # noqa: BLE001  # Whatever the policy raises is its result.
            lacking = out_of_memory(error)
            detail = first_line(error, 300, kind=True)
            found.append({"batch_size": size, "error": "out of memory" if lacking else detail, "detail": detail})
            optimizer.zero_grad(set_to_none=True)
            if not lacking:
                break
    return found


def train(
    cfg: WorkerConfig, built: Built, meter: Meter, optimizer: Any, optimizer_config: Any, size: int
) -> dict[str, Any]:
    """Time training steps at one batch size, as lerobot-train makes them, the batch being on the device already."""
    policy = built.policy
    batch = built.preprocess(raw_batch(policy.config, size))
    with ExitStack() as stack:
        if "cache" in split(cfg.policy)[1]:
            from eval.benchmark.feature_cache import from_cache  # Imports the plugin, which a baseline does without.

            batch = stack.enter_context(from_cache(policy, batch))
        return timed_steps(cfg, built, meter, optimizer, optimizer_config, batch) | {"batch_size": size}


def timed_steps(
    cfg: WorkerConfig, built: Built, meter: Meter, optimizer: Any, optimizer_config: Any, batch: dict[str, Any]
) -> dict[str, Any]:
    """Time training steps on one batch."""
    import torch

    policy, size, losses = built.policy, len(batch["action"]), []

    def step() -> None:
        policy.train()
        with autocast(built, built.autocast):
            loss, _ = policy.forward(dict(batch))
        loss.backward()
        largest = optimizer_config.grad_clip_norm if optimizer_config.grad_clip_norm > 0 else float("inf")
        torch.nn.utils.clip_grad_norm_(policy.parameters(), largest)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    meter.reset_peak()
    for _ in range(cfg.warmup):
        step()
    warmup_peak = meter.peak()
    # What only the first steps need has gone by now: a frozen language model, whose instructions are encoded.
    meter.reset_peak()
    seconds = [meter.seconds(step) for _ in range(cfg.train_steps)]
    return {
        "step_s": seconds,
        "samples_per_s": size / statistics.median(seconds),
        "peak_bytes": meter.peak(),
        "warmup_peak_bytes": warmup_peak,
        "reserved_bytes": meter.reserved_peak(),
        "losses": [losses[0], losses[-1]],
    }


def checkpoint_bytes(built: Built) -> int:
    """Count the bytes that ``save_pretrained`` writes, with processors, less what a real checkpoint only refers to."""
    with tempfile.TemporaryDirectory() as folder:
        for part in (built.policy, built.preprocess, built.postprocess):
            part.save_pretrained(Path(folder))
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return written - built.referred_bytes


def measure(cfg: WorkerConfig, recorder: Recorder) -> None:
    """Measure all stages of one policy."""
    started = cfg.started or time.monotonic()
    recorder.stage("imports")
    import torch

    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if cfg.device == "cuda":
        # As lerobot-train and lerobot-eval set them.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    classes(split(cfg.policy)[0])
    meter = Meter(cfg.device)
    limit_memory(cfg.device, cfg.memory_limit_gib)
    imported = time.monotonic()
    before = meter.now()
    recorder.stage("build", imports_s=imported - started, threads=torch.get_num_threads(), before_build_bytes=before)

    built = build(cfg.policy, cfg.device, cfg.dtype, cfg.weights, cfg.overrides)
    meter.finish()
    ready = time.monotonic()
    parameters = list(built.policy.parameters())
    recorder.stage(
        "first chunk",
        build_s=ready - imported,
        precision=built.precision,
        notes=built.notes,
        parameters=sum(p.numel() for p in parameters),
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
    )
    built.policy.reset()
    acting_step(built)()
    meter.finish()
    first = time.monotonic()
    recorder.stage("acting", first_chunk_s=first - ready, time_to_first_action_s=first - started)
    recorder.stage("arithmetic", **acting(cfg, built, meter))
    recorder.stage("training", **arithmetic(cfg, built))
    figures: dict[str, Any] = {"training": training(cfg, built, meter, recorder)}
    if cfg.checkpoint:
        recorder.stage("checkpoint", **figures)
        try:
            figures = {"checkpoint_bytes": checkpoint_bytes(built)}
        except Exception as error:  # noqa: BLE001  # Nothing else depends on it.
            figures = {"checkpoint_error": first_line(error, 300, kind=True)}
    recorder.stage("done", **figures)


@draccus.wrap()
def main(cfg: WorkerConfig) -> None:
    """Measure one policy; a policy that fails is a result, and no failure of this process."""
    # Ends the process even from inside a kernel, where no exception could be raised.
    signal.alarm(cfg.timeout_s)
    recorder = Recorder(cfg.out, cfg.policy)
    try:
        measure(cfg, recorder)
    except Exception as error:  # noqa: BLE001  # Whatever the policy raises is its result.
        # The file keeps the stage in which it was raised.
        recorder.stage(recorder.figures["stage"], failed=first_line(error, 300, kind=True))
    # Some policies leave threads behind that would keep the process alive.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
