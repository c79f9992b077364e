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
import psutil

from eval.benchmark import harness
from eval.benchmark.pages.plot import plot
from eval.benchmark.pages.report import add_ratios, benchmark_page, floors, summarize
from eval.benchmark.pages.targets import targets
from eval.benchmark.settings import (
    DEFAULT_PRESET,
    GPU_ONLY,
    NOT_ON_A_CPU,
    Measurement,
    baselines,
    check_names,
    presets,
    released_of,
    split,
)
from eval.benchmark.worker import gpu_state
from eval.common.cli import run_command
from eval.common.commands import GIB, Process, measure, offline
from eval.common.errors import EvalError, check_at_least
from eval.common.files import only_writer, set_aside
from eval.report.data import write_files

PREFIX = "benchmark-"
ALL = "all"
# Quicker ways to run the same policies, which a ratio has to know.
GPU_VARIANTS = [f"{DEFAULT_PRESET}+graphs", f"{DEFAULT_PRESET}+cache", "atlasvla_da3_base+graphs"]
GPU_VARIANTS += ["atlasvla_da3_small+graphs", "smolvla+amp", "smolvla+graphs", "act+amp"]
# Of a CPU's free memory, so that other processes on the machine live on.
CPU_SHARE = 0.9


@dataclass(kw_only=True)
class BenchmarkConfig(Measurement):
    """Measure policies side by side."""

    # Presets of configs/policy and types of LeRobot's policies; variants after a plus: act+amp (autocast), +compile,
    # +graphs (compile_mode=reduce-overhead), +cache (feature cache in training). Empty: atlasvla_tiny and act on a CPU,
    # [all] on a GPU.
    policies: list[str] = field(default_factory=list)
    # Times that each policy has its turn.
    rounds: int = 2
    # Settings by policy, as JSON: {"act": {"chunk_size": 20}}.
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Folder of the report, inside --reports; begins with "benchmark-". Empty: benchmark- and the device.
    name: str = ""
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Folder for what the processes write and say; one left by an earlier run is renamed.
    root: Path = Path("outputs/benchmark")

    def complete(self) -> "BenchmarkConfig":
        """Return the settings with what was left open filled in; checks everything before anything runs.

        Raises:
            EvalError: For a value that can't work; the message names the flag.
        """
        import torch

        found = dataclasses.replace(self, device=self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if found.device not in ("cpu", "cuda"):
            raise EvalError(f"--device must be cpu or cuda, got {self.device!r}.")
        if found.device == "cuda" and not torch.cuda.is_available():
            raise EvalError("--device=cuda needs a GPU that PyTorch can use; there is none (--device=cpu).")
        found.dtype = self.dtype or ("bfloat16" if found.device == "cuda" else "float32")
        if found.dtype not in ("float32", "bfloat16"):
            raise EvalError(f"--dtype must be float32 or bfloat16, got {self.dtype!r}.")
        found.name = self.name or f"{PREFIX}{found.device}"
        if not found.name.startswith(PREFIX) or Path(found.name).name != found.name or found.name == PREFIX:
            raise EvalError(f"--name must be the name of a folder that begins with {PREFIX!r}, got {self.name!r}.")
        found._check_numbers()
        if not self.policies:
            found.policies = [ALL] if found.device == "cuda" else ["atlasvla_tiny", "act"]
        named = found.named()
        check_names(named)
        if len(set(named)) < len(named):
            raise EvalError(f"every policy is to be named once, got {named} (--policies).")
        if unknown := self.overrides.keys() - set(named):
            raise EvalError(
                f"--overrides has settings for {min(unknown)!r}, which is not measured: {', '.join(named)}."
            )
        found._check_weights(named)
        if self.memory_limit_gib is None:
            free = psutil.virtual_memory().available
            found.memory_limit_gib = round(CPU_SHARE * free / GIB, 2) if found.device == "cpu" else 0.0
        return found

    def _check_numbers(self) -> None:
        check_at_least(self, repetitions=1, train_steps=1, rounds=1, timeout_s=1, warmup=0, threads=0)
        check_at_least(self, memory_limit_gib=0)
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise EvalError(f"--batch_sizes must be different whole numbers from 1 on, got {sizes}.")

    def _check_weights(self, named: Sequence[str]) -> None:
        if self.weights is None:
            return
        bases = [base for name in named if (base := split(name)[0]) in presets()]
        folders = {folder for base in bases for _, folder in released_of(base).values()}
        if missing := sorted(name for name in folders if not (self.weights / name).is_dir()):
            raise EvalError(
                f"--weights={self.weights} has no folder {missing[0]}; "
                f"python -m eval.benchmark.full_size.weights {shlex.quote(f'--root={self.weights}')} writes all."
            )

    def named(self) -> list[str]:
        """Return the policies to measure, "all" written out: on a CPU without those that are for a GPU only."""
        if ALL not in self.policies:
            return self.policies
        every = [*presets(), *(name for name in baselines() if self.device == "cuda" or name not in GPU_ONLY)]
        every += GPU_VARIANTS if self.device == "cuda" else []
        return [*every, *(name for name in self.policies if name not in (ALL, *every))]

    def left_out(self) -> dict[str, str]:
        """Policies that "all" leaves out here, and why."""
        if ALL not in self.policies or self.device == "cuda":
            return {}
        return {name: NOT_ON_A_CPU for name in GPU_ONLY if name not in self.policies}


def command(cfg: BenchmarkConfig, policy: str, number: int, out: Path) -> list[str]:
    """Return the command that measures one policy in round ``number``, from 0."""
    values = {setting.name: getattr(cfg, setting.name) for setting in dataclasses.fields(Measurement)}
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    # A checkpoint has the same size in every round.
    flags += [f"--checkpoint={'false' if number else 'true'}"]
    if settings := cfg.overrides.get(policy):
        flags += [f"--overrides={json.dumps(settings)}"]
    return [sys.executable, "-m", "eval.benchmark.worker", f"--policy={policy}", f"--out={out}", *flags]


def read(out: Path, process: Process, timeout_s: int) -> dict[str, Any]:
    """Read the figures of a process that has ended, with ``failed`` if it did not reach its end."""
    figures: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"stage": "start"}
    figures["process"] = dataclasses.asdict(process)
    if process.status:
        name = signal.Signals(-process.status).name if process.status < 0 else f"exit status {process.status}"
        why = {"SIGALRM": f"took longer than --timeout_s={timeout_s}", "SIGKILL": "SIGKILL: out of memory, most likely"}
        figures["failed"] = f"{why.get(name, name)}, in stage: {figures['stage']}"
    return figures


def run(cfg: BenchmarkConfig, typed: str) -> dict[str, Any]:
    """Measure everything; the report is brought up to date after each process.

    Args:
        cfg: Completed settings.
        typed: The command as typed.

    Returns:
        Content of ``report.json``.
    """
    with only_writer(cfg.root / cfg.name, "--root"):
        return _run_alone(cfg, typed)


def _run_alone(cfg: BenchmarkConfig, typed: str) -> dict[str, Any]:
    folder = cfg.root / cfg.name
    set_aside(folder, sorted(folder.iterdir()))
    environment = harness.environment() | {"load average": Path("/proc/loadavg").read_text().strip()}
    if cfg.device == "cuda":
        environment |= {f"GPU at the start, {key}": value for key, value in gpu_state().items()}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in cfg.named()}
    commands = [typed]
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
    """Assemble ``report.json``: rows with ratios, what is not measured, targets, and every single figure."""
    acted = {name: [one for one in found if "model_s" in one] for name, found in rounds.items()}
    rows = [summarize(name, found, cfg.device) for name, found in acted.items() if found]
    add_ratios(rows)
    gpu = environment.get("GPU at the start, name", "")
    failed = {
        name: found[0].get("failed", "ended without figures")
        for name, found in rounds.items()
        if found and not acted[name]
    }
    settings = draccus.encode(cfg)
    return {
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
    write_files(folder, "benchmark", content, benchmark_page(content))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; exit status 0 if a policy was measured, 1 if none was, else as :func:`.run_command`."""

    def body(cfg: BenchmarkConfig, typed: str) -> int:
        content = run(cfg.complete(), typed)
        for name, why in content["not_measured"].items():
            sys.stdout.write(f"not measured: {name}: {why}\n")
        for line in floors(content["rows"]):
            sys.stdout.write(f"{line}\n")
        page = Path(content["settings"]["reports"]) / content["name"] / "report.md"
        sys.stdout.write(f"benchmark: {len(content['rows'])} policies measured, report {page}\n")
        return 0 if content["rows"] else 1

    return run_command("eval.benchmark", BenchmarkConfig, body, argv)
