"""The full presets at their true size, offline, on one machine: weights -> data -> train, resume, act -> ``report.md``.

``python -m eval.full_size`` needs about 17 GB of disk and 16 GiB of memory, no GPU and no network. The weights have the
released names and shapes and are random, so it shows that everything fits and runs, and nothing about success rates.
"""

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.benchmark.full_size.report import REFERENCE, FullSizeOutcome, PresetResult, bars, full_size_page, passed
from eval.benchmark.full_size.weights import WEIGHTS_NAME, checkpoint_size, releases
from eval.benchmark.harness import environment, run_stages, training_figures
from eval.benchmark.harness import shown as shown_without
from eval.benchmark.settings import PRESETS, released_of
from eval.common.cli import run_command
from eval.common.commands import measure, offline, tool
from eval.common.errors import EvalError, check_at_least
from eval.common.files import only_writer, set_aside
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.utils.paths import existing_part

REPO_ID = "local/full_size"
# Two checkpoints of a preset, each with two moments of every trained parameter; 57.8 M of them make 1.4 GB.
PRESET_BYTES = 2 * 10**9
# Those of the reference's figures.
AGGREGATOR_THREADS = 2
VGGT = "VGGT-1B"


@dataclass
class FullSizeConfig:
    """Run the full presets at their true size; all of them by default."""

    # Everything is written here; what an earlier run left is moved to a folder beside it, except the weights.
    root: Path = Path("outputs/full_size")
    # Folder with VGGT-1B/, Qwen3-0.6B-Base/ and so on; what the presets need and is missing is written (7.1 GB in all).
    # Unset: root/weights.
    weights: Path | None = None
    # Names of files in configs/policy.
    presets: list[str] = field(
        default_factory=lambda: [
            "atlasvla_libero",
            "atlasvla_base",
            "atlasvla_dinov2",
            "atlasvla_da3_small",
            "atlasvla_da3_base",
        ]
    )
    # Training steps before the resume, which adds one.
    steps: int = 2
    # Samples per training step.
    batch_size: int = 2

    @property
    def weights_folder(self) -> Path:
        """Return where the weights are, or will be."""
        return self.weights or self.root / "weights"

    @property
    def models(self) -> list[str]:
        """Return the names of the folders with the weights that the presets need."""
        return sorted({folder for preset in self.presets for _, folder in released_of(preset).values()})

    def check(self) -> None:
        """Find what can't work before anything is written.

        Raises:
            EvalError: For a preset that does not exist, one folder for two purposes, or a number below 1.
        """
        known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        if unknown := [preset for preset in self.presets if preset not in known]:
            raise EvalError(
                f"no preset {', '.join(unknown)} in {PRESETS}, which has {', '.join(known) or 'none'}; "
                "run this from the repository's root (--presets)."
            )
        if not self.presets or len(set(self.presets)) < len(self.presets):
            raise EvalError(f"every preset is to be named once, got {self.presets} (--presets).")
        if self.root.resolve() == self.weights_folder.resolve():
            raise EvalError(f"--root and --weights must be two folders, got {self.root} for both.")
        check_at_least(self, steps=1, batch_size=1)


def worker_command(what: str, path: Path, out: Path, *flags: str) -> list[str]:
    """Return the command of a job of ``eval.benchmark.full_size.worker``."""
    worker = [sys.executable, "-m", "eval.benchmark.full_size.worker"]
    return [*worker, f"--what={what}", f"--path={path}", f"--out={out}", *flags]


def preparation(cfg: FullSizeConfig) -> dict[str, list[str]]:
    """Return the commands that all presets need, by stage."""
    return {
        "weights": [
            sys.executable,
            "-m",
            "eval.benchmark.full_size.weights",
            f"--root={cfg.weights_folder}",
            f"--models=[{','.join(cfg.models)}]",
        ],
        "data": worker_command("data", cfg.root / "data", cfg.root / "data.json", f"--repo_id={REPO_ID}"),
    }


def training_flags(preset: str, weights: Path, data: Path) -> list[str]:
    """Return the flags of ``lerobot-train`` for a preset at its true size on a CPU.

    Args:
        preset: Name of the preset.
        weights: Folder of all weights.
        data: Folder of the dataset.
    """
    return [
        f"--config_path={PRESETS / f'{preset}.yaml'}",
        *(f"--policy.{setting}={weights / folder}" for setting, folder in released_of(preset).values()),
        "--policy.device=cpu",
        "--policy.dtype=float32",
        f"--dataset.repo_id={REPO_ID}",
        f"--dataset.root={data}",
        # Everything in the one process whose memory is measured.
        "--num_workers=0",
        "--log_freq=1",
        "--env_eval_freq=0",
    ]


def preset_commands(cfg: FullSizeConfig, preset: str) -> dict[str, list[str]]:
    """Return the commands of one preset, by stage."""
    folder = cfg.root / preset
    last = folder / "train/checkpoints/last/pretrained_model"
    return {
        "train": [
            tool("lerobot-train"),
            *training_flags(preset, cfg.weights_folder, cfg.root / "data"),
            f"--batch_size={cfg.batch_size}",
            f"--steps={cfg.steps}",
            f"--save_freq={cfg.steps}",
            f"--output_dir={folder / 'train'}",
        ],
        "resume": [
            tool("lerobot-train"),
            f"--config_path={last / 'train_config.json'}",
            "--resume=true",
            f"--steps={cfg.steps + 1}",
        ],
        "act": worker_command("act", last, folder / "act.json"),
        "load": worker_command("load", last, folder / "load.json"),
    }


def aggregator_commands(cfg: FullSizeConfig) -> dict[int, list[str]]:
    """Return the commands that time VGGT's aggregator, by number of views; none if no preset has it."""
    if VGGT not in cfg.models:
        return {}
    weights = cfg.weights_folder / VGGT
    flags = {views: (f"--views={views}", f"--threads={AGGREGATOR_THREADS}") for views in REFERENCE}
    return {views: worker_command("aggregator", weights, aggregator_file(cfg, views), *flags[views]) for views in flags}


def aggregator_file(cfg: FullSizeConfig, views: int) -> Path:
    """Return where the aggregator's figures go."""
    return cfg.root / f"aggregator_{views}.json"


def check_room(cfg: FullSizeConfig) -> None:
    """Refuse to start on a disk that will be full before the end.

    Raises:
        EvalError: Naming the folder, what it needs and what is free.
    """
    missing = sum(
        checkpoint_size(release.tensors, release.dtype, release.metadata)
        for release in releases()
        if release.name in cfg.models and not (cfg.weights_folder / release.name / WEIGHTS_NAME).exists()
    )
    needs: dict[int, int] = {}
    for folder, size in ((cfg.weights_folder, missing), (cfg.root, PRESET_BYTES * len(cfg.presets))):
        there = existing_part(folder)
        disk = there.stat().st_dev
        # Both folders may lie on one disk.
        needs[disk] = needs.get(disk, 0) + size
        free = shutil.disk_usage(there).free
        if free < needs[disk]:
            raise EvalError(
                f"{folder} needs {needs[disk] / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB left. Make room, or "
                "choose other folders with --root and --weights."
            )


def set_aside_earlier(cfg: FullSizeConfig) -> None:
    """Move what an earlier run left, so that nothing is overwritten; weights are kept in place.

    Raises:
        EvalError: If the folder holds something else.
    """
    weights = cfg.weights_folder.resolve()
    entries = sorted(cfg.root.iterdir()) if cfg.root.exists() else []
    left = [entry for entry in entries if not weights.is_relative_to(entry.resolve())]
    # Every run begins with this file.
    if left and not (cfg.root / "weights.log").exists():
        raise EvalError(f"{cfg.root} holds other files, such as {left[0].name}. Choose another --root.")
    if kept := set_aside(cfg.root, left):
        sys.stdout.write(f"full size: an earlier run was moved to {kept}\n")


def run_preset(cfg: FullSizeConfig, preset: str) -> PresetResult:
    """Train, resume and act; a stage that fails is the last."""
    folder = cfg.root / preset
    folder.mkdir()
    result = PresetResult(preset)
    for stage, command in preset_commands(cfg, preset).items():
        log = folder / f"{stage}.log"
        result.processes[stage] = measure(f"{preset}, {stage}", command, log, offline())
        if result.processes[stage].status:
            break
        if stage in ("act", "load"):
            setattr(result, stage, json.loads((folder / f"{stage}.json").read_text()))
            continue
        losses, step_s = training_figures(log)
        result.losses += losses
        result.step_s += step_s
        checkpoint = (folder / "train/checkpoints/last").resolve()
        saved = checkpoint / "pretrained_model"
        result.last_step = int(checkpoint.name)
        result.checkpoint_mb = (saved / WEIGHTS_NAME).stat().st_size / 1e6
        result.folder_mb = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()) / 1e6
    return result


def run(cfg: FullSizeConfig) -> FullSizeOutcome:
    """Run all stages, one after the other.

    Raises:
        EvalError: If the preparation fails; its output says why.
    """
    outcome = FullSizeOutcome(cfg.steps, run_stages(preparation(cfg), cfg.root))
    for preset in cfg.presets:
        outcome.presets.append(run_preset(cfg, preset))
    for views, command in aggregator_commands(cfg).items():
        done = measure(f"aggregator, {views} view(s)", command, cfg.root / f"aggregator_{views}.log", offline())
        outcome.aggregator[views] = done
        if not done.status:
            outcome.aggregator_figures[views] = json.loads(aggregator_file(cfg, views).read_text())
    return outcome


def shown(cfg: FullSizeConfig, command: Sequence[str]) -> str:
    """Return a command as the report shows it, without the folders of this machine."""
    # In this order: the weights may lie in the root.
    return shown_without(command, {cfg.weights_folder: "WEIGHTS", cfg.root: "ROOT"})


def write_report(
    cfg: FullSizeConfig, outcome: FullSizeOutcome, arguments: Sequence[str], wall_s: float, environment: dict[str, str]
) -> int:
    """Write ``report.md`` and ``report.json``; return the exit status.

    Args:
        cfg: What was run.
        outcome: What was measured.
        arguments: The command line's flags.
        wall_s: Seconds of the whole run.
        environment: Versions and machine.
    """
    file = cfg.root / "report.md"
    missed = [bar for bar in bars(outcome) if not bar.met]
    last_line = (
        f"full size: {len(passed(outcome))} of {len(outcome.presets)} presets pass, "
        f"peak {outcome.peak_gib():.1f} GiB, report "
    )
    stages = preparation(cfg)
    for preset in cfg.presets:
        stages |= {f"{preset}, {stage}": command for stage, command in preset_commands(cfg, preset).items()}
    stages |= {f"aggregator, {views} view(s)": command for views, command in aggregator_commands(cfg).items()}
    commands = [f"all ({wall_s:.0f} s): `{shown(cfg, ['python', '-m', 'eval.full_size', *arguments])}`"]
    commands += [f"{name}: `{shown(cfg, command)}`" for name, command in stages.items()]
    write_text(file, full_size_page(outcome, f"{last_line}ROOT/{file.name}", commands, environment))
    content = {
        "wall_s": wall_s,
        "commands": commands,
        "environment": environment,
        "outcome": dataclasses.asdict(outcome),
        "bars": [dataclasses.asdict(bar) for bar in bars(outcome)],
    }
    write_text(file.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    sys.stdout.write("".join(f"missed: {bar}\n" for bar in missed) + f"{last_line}{file}\n")
    return 1 if missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; exit status 0 when every bar is met, 1 when one is missed, else as :func:`.run_command`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    started = time.monotonic()

    def body(cfg: FullSizeConfig, _: str) -> int:
        cfg.check()
        check_room(cfg)
        with only_writer(cfg.root, "--root"):
            set_aside_earlier(cfg)
            found = environment()
            return write_report(cfg, run(cfg), arguments, time.monotonic() - started, found)

    return run_command("eval.full_size", FullSizeConfig, body, arguments)
