"""``python -m eval.benchmark``: AtlasVLA and LeRobot's policies side by side: latency, training, memory, size, start.

One process per policy and round, on one machine, one after the other, offline, with random weights. A policy that can't
be built is listed with its reason. Nothing here says how well a policy acts.
"""

import dataclasses
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus
from draccus.utils import DecodingError

from eval.benchmark.full_size.command import offline
from eval.benchmark.full_size.report import machine
from eval.benchmark.plot import plot
from eval.benchmark.report import add_ratios, render, summarise, targets
from eval.benchmark.settings import (
    DEFAULT_PRESET,
    GPU_ONLY,
    NOT_ON_A_CPU,
    RELEASED,
    UnknownPolicyError,
    check_names,
    peers,
    presets,
    split,
)
from eval.benchmark.worker import gpu_state
from eval.common.commands import GIB, Process, measure
from eval.common.environment_info import versions
from eval.report.data import REPORT_FILE, SCHEMA_VERSION, json_text, write_text

PREFIX = "benchmark-"
ALL = "all"
# Quicker ways to run the same policies, which a ratio has to know.
GPU_VARIANTS = [f"{DEFAULT_PRESET}+graphs", f"{DEFAULT_PRESET}+cache", "smolvla+amp", "smolvla+graphs", "act+amp"]
# Of a CPU's free memory, so that other processes on the machine live on.
CPU_SHARE = 0.9
# The probe's settings that are those of the run.
SHARED = ("batch_sizes", "warmup", "repetitions", "train_steps", "threads", "timeout_s")


@dataclass
class BenchmarkConfig:
    """What is measured, and how long."""

    # Presets of configs/policy and types of LeRobot's policies; variants after a plus: act+amp (autocast), +compile,
    # +graphs (compile_mode=reduce-overhead), +cache (feature cache in training). Empty: atlasvla_tiny and act on a CPU,
    # [all] on a GPU.
    policies: list[str] = field(default_factory=list)
    # cpu or cuda; empty takes the GPU if there is one.
    device: str = ""
    # float32 or bfloat16, for policies with such a setting; empty: bfloat16 on a GPU, float32 on a CPU.
    dtype: str = ""
    # Samples per training step.
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 16])
    # Calls and training steps before the timed ones.
    warmup: int = 3
    # Timed chunks per round.
    repetitions: int = 30
    # Timed training steps per batch size and round.
    train_steps: int = 10
    # Times that each policy has its turn.
    rounds: int = 2
    # Threads of PyTorch; 0 leaves that to PyTorch.
    threads: int = 0
    # Memory that a policy may take, GiB; more is recorded as out of memory. Unset: 90 % of what a CPU's machine has
    # free at the start; on a GPU no limit. 0 is no limit.
    memory_limit_gib: float | None = None
    # Seconds that a process may take; it is ended then, and what it has measured is kept.
    timeout_s: int = 1800
    # Folder of eval.benchmark.full_size.weights, for AtlasVLA's backbones. Unset: random weights, no vocabulary.
    weights: Path | None = None
    # Settings by policy, as JSON: {"act": {"chunk_size": 20}}.
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Folder of the report, inside --reports; begins with "benchmark-". Empty: benchmark- and the device.
    name: str = ""
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Folder for what the processes write and say; one left by an earlier run is renamed.
    root: Path = Path("outputs/benchmark")

    def complete(self) -> "BenchmarkConfig":
        """With what was left open filled in, and everything checked before anything runs.

        Raises:
            ValueError: For a value that can't work; the message names the flag.
        """
        import torch

        found = dataclasses.replace(self, device=self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if found.device not in ("cpu", "cuda"):
            raise ValueError(f"--device must be cpu or cuda, got {self.device!r}.")
        if found.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device=cuda needs a GPU that PyTorch can use; there is none (--device=cpu).")
        found.dtype = self.dtype or ("bfloat16" if found.device == "cuda" else "float32")
        if found.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--dtype must be float32 or bfloat16, got {self.dtype!r}.")
        found.name = self.name or f"{PREFIX}{found.device}"
        if not found.name.startswith(PREFIX) or Path(found.name).name != found.name or found.name == PREFIX:
            raise ValueError(f"--name must be the name of a folder that begins with {PREFIX!r}, got {self.name!r}.")
        found._check_numbers()
        if not self.policies:
            found.policies = [ALL] if found.device == "cuda" else ["atlasvla_tiny", "act"]
        named = found.named()
        check_names(named)
        if len(set(named)) < len(named):
            raise ValueError(f"every policy is to be named once, got {named} (--policies).")
        if unknown := self.overrides.keys() - set(named):
            raise ValueError(
                f"--overrides has settings for {min(unknown)!r}, which is not measured: {', '.join(named)}."
            )
        found._check_weights(named)
        if self.memory_limit_gib is None:
            found.memory_limit_gib = round(CPU_SHARE * free_memory() / GIB, 2) if found.device == "cpu" else 0.0
        return found

    def _check_numbers(self) -> None:
        for flag in ("repetitions", "train_steps", "rounds", "timeout_s"):
            if getattr(self, flag) < 1:
                raise ValueError(f"--{flag} must be at least 1, got {getattr(self, flag)}.")
        for flag in ("warmup", "threads", "memory_limit_gib"):
            if (getattr(self, flag) or 0) < 0:
                raise ValueError(f"--{flag} must be at least 0, got {getattr(self, flag)}.")
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"--batch_sizes must be different whole numbers from 1 on, got {sizes}.")

    def _check_weights(self, named: Sequence[str]) -> None:
        if self.weights is None or not any(split(name)[0] in presets() for name in named):
            return
        if missing := [name for name in RELEASED.values() if not (self.weights / name).is_dir()]:
            raise ValueError(
                f"--weights={self.weights} has no folder {missing[0]}; "
                f"python -m eval.benchmark.full_size.weights --root={self.weights} writes all."
            )

    def named(self) -> list[str]:
        """The policies to measure, "all" written out: on a CPU without those that are for a GPU only."""
        if ALL not in self.policies:
            return self.policies
        every = [*presets(), *(peer for peer in peers() if self.device == "cuda" or peer not in GPU_ONLY)]
        every += GPU_VARIANTS if self.device == "cuda" else []
        return [*every, *(name for name in self.policies if name not in (ALL, *every))]

    def left_out(self) -> dict[str, str]:
        """Policies that "all" leaves out here, and why."""
        if ALL not in self.policies or self.device == "cuda":
            return {}
        return {name: NOT_ON_A_CPU for name in GPU_ONLY if name not in self.policies}


def free_memory() -> int:
    """Bytes that processes can have without swapping (Linux)."""
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024


def command(cfg: BenchmarkConfig, policy: str, number: int, out: Path) -> list[str]:
    """Command that measures one policy in round ``number``, from 0."""
    flags = [f"--{flag}={getattr(cfg, flag)}" for flag in SHARED]
    flags += [f"--memory_limit_gib={cfg.memory_limit_gib}", f"--device={cfg.device}", f"--dtype={cfg.dtype}"]
    # A checkpoint has the same size in every round.
    flags += [f"--checkpoint={'false' if number else 'true'}"]
    flags += [] if cfg.weights is None else [f"--weights={cfg.weights}"]
    if settings := cfg.overrides.get(policy):
        flags += [f"--overrides={json.dumps(settings)}"]
    return [sys.executable, "-m", "eval.benchmark.worker", f"--policy={policy}", f"--out={out}", *flags]


def read(out: Path, process: Process, timeout_s: int) -> dict[str, Any]:
    """Figures of a process that has ended, with ``failed`` if it did not reach its end."""
    figures: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"stage": "start"}
    figures["process"] = dataclasses.asdict(process)
    if process.status:
        name = signal.Signals(-process.status).name if process.status < 0 else f"exit status {process.status}"
        why = {"SIGALRM": f"took longer than --timeout_s={timeout_s}", "SIGKILL": "SIGKILL: out of memory, most likely"}
        figures["failed"] = f"{why.get(name, name)}, in stage: {figures['stage']}"
    return figures


def run(cfg: BenchmarkConfig, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure everything; the report is brought up to date after each process.

    Args:
        cfg: Completed settings.
        arguments: The command line's flags.

    Returns:
        Content of ``report.json``.
    """
    folder = cfg.root / cfg.name
    if folder.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        folder.rename(folder.with_name(f"{folder.name}-{stamp}"))
    folder.mkdir(parents=True)
    # Now, because the working tree may be another one by the end.
    environment = versions() | machine() | {"load average": Path("/proc/loadavg").read_text().strip()}
    if cfg.device == "cuda":
        environment |= {f"GPU at the start, {key}": value for key, value in gpu_state().items()}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in cfg.named()}
    commands = [shlex.join(["python", "-m", "eval.benchmark", *arguments])]
    content: dict[str, Any] = {}
    for number in range(cfg.rounds):
        for name, found in rounds.items():
            # What can't act once needs no second try.
            if found and "model_s" not in found[-1]:
                continue
            out = folder / f"{name}-{number + 1}.json"
            of_policy = command(cfg, name, number, out)
            commands.append(shlex.join(["python", *of_policy[1:]]))
            timed = [*of_policy, f"--started={time.monotonic()}"]
            process = measure(f"{name}, round {number + 1}", timed, out.with_suffix(".log"), offline())
            found.append(read(out, process, cfg.timeout_s))
            content = assemble(cfg, rounds, environment, commands)
            write_report(cfg.reports / cfg.name, content)
    content["complete"] = True
    write_report(cfg.reports / cfg.name, content)
    return content


def assemble(
    cfg: BenchmarkConfig,
    rounds: Mapping[str, list[dict[str, Any]]],
    environment: Mapping[str, str],
    commands: Sequence[str],
) -> dict[str, Any]:
    """Content of ``report.json``: rows with ratios, what is not measured, targets, and every single figure."""
    acted = {name: [one for one in found if "model_s" in one] for name, found in rounds.items()}
    rows = [summarise(name, found, cfg.device) for name, found in acted.items() if found]
    add_ratios(rows)
    gpu = environment.get("GPU at the start, name", "")
    failed = {
        name: found[0].get("failed", "ended without figures")
        for name, found in rounds.items()
        if found and not acted[name]
    }
    settings = draccus.encode(cfg)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "benchmark",
        "name": cfg.name,
        "complete": False,
        "settings": settings,
        "environment": dict(environment),
        "rows": rows,
        "not_measured": failed | cfg.left_out(),
        "targets": [dataclasses.asdict(target) for target in targets(rows, cfg.device, gpu)],
        "commands": list(commands),
        "processes": {name: found for name, found in rounds.items() if found},
    }


def write_report(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``report.md``, ``report.json`` and ``report.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    if content["rows"]:
        plot(content["rows"], content["settings"]["batch_sizes"], folder / "report.png")
    write_text(folder / REPORT_FILE, json_text(content))
    write_text(folder / "report.md", render(content))


def main(argv: list[str] | None = None) -> int:
    """Measure; the last line of output names the report.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 0 if a policy was measured, 1 if none was or for a setting that can't work, 2 for a flag that does
        not parse.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        cfg = draccus.parse(BenchmarkConfig, args=arguments)
    except DecodingError as error:
        sys.stderr.write(f"benchmark: {error} (see --help)\n")
        return 2
    try:
        content = run(cfg.complete(), arguments)
    except (OSError, ValueError, UnknownPolicyError) as error:
        sys.stderr.write(f"benchmark: {error}\n")
        return 1
    for name, why in content["not_measured"].items():
        sys.stdout.write(f"not measured: {name}: {why}\n")
    folder = Path(content["settings"]["reports"]) / content["name"]
    sys.stdout.write(f"benchmark: {len(content['rows'])} policies measured, report {folder / 'report.md'}\n")
    return 0 if content["rows"] else 1
