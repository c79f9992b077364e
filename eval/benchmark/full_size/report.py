"""Turn what ``eval.full_size`` measured into bars, tables and a Markdown report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.common.commands import Process
from eval.common.markdown import origin, table, table_of

MAX_PEAK_GIB = 16.0
MAX_TRAINED = dict.fromkeys(("atlasvla_libero", "atlasvla_da3_small", "atlasvla_da3_base"), 60_000_000)
MAX_CHECKPOINT_MB = dict.fromkeys(MAX_TRAINED, 300.0)
MAX_LOAD_RATIO = 1.2
ACTION_SHAPE = [1, 7]

# Views -> seconds of a forward pass and peak GiB of the authors' own code.
REFERENCE = {1: ("9.3-11.8", "4.0"), 2: ("17.4-17.7", "4.1")}
REFERENCE_NOTE = """The reference's figures are those of VGGT's upstream code with random weights, float32, two threads,
batch 1, taken at another time on another shared machine. They show the order of magnitude; this is no side-by-side
measurement, and the ratio of two columns is not a speed-up. Our weights are the checkpoint's file, mapped into memory:
private is what is left without such pages, which processes share and the kernel may drop."""
NOTE = """Weights and data are random numbers in the released shapes: this shows that everything fits and runs, offline
and without a GPU; losses only have to be finite, and a policy trained here knows nothing. Every stage is a process of
its own. Peak memory is the kernel's figure for it (resident, over its whole life, mapped files included). The first
action includes what happens once per instruction, the second is another prediction, a queued one only leaves the
queue. Seconds depend on what else the machine was doing: the CPU's seconds of a process, threads added up, tell."""

LOAD_NOTE = """As on a GPU: backbones stored in float32 (VGGT, DINOv2) or bfloat16 (Qwen3) end up in bfloat16. A
process's own memory leaves out mapped files: tensors are mapped from their file and cast, then its pages can go."""


@dataclass
class PresetResult:
    """Hold what was measured of one preset; what a failed stage leaves open stays empty.

    Attributes:
        preset: Name of the preset.
        processes: By stage: train, resume, act, load.
        losses: One per training step, the resumed one last.
        step_s: Seconds of each of these steps.
        last_step: Step of the last checkpoint.
        checkpoint_mb: ``model.safetensors``, MB.
        folder_mb: The whole ``pretrained_model`` folder, MB.
        act: Figures of the acting process.
        load: Figures of the process that only loads.
    """

    preset: str
    processes: dict[str, Process] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    last_step: int = 0
    checkpoint_mb: float = 0.0
    folder_mb: float = 0.0
    act: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)


@dataclass
class FullSizeOutcome:
    """Hold everything that the report tells.

    Attributes:
        steps: Training steps before the resume.
        prepared: Processes of the preparation, by stage.
        presets: One result each.
        aggregator: Processes that timed the aggregator, by number of views.
        aggregator_figures: Their figures, as far as there are any.
    """

    steps: int
    prepared: dict[str, Process] = field(default_factory=dict)
    presets: list[PresetResult] = field(default_factory=list)
    aggregator: dict[int, Process] = field(default_factory=dict)
    aggregator_figures: dict[int, dict[str, Any]] = field(default_factory=dict)

    def peak_gib(self) -> float:
        """Return the most memory of any process."""
        every = [*self.prepared.values(), *self.aggregator.values()]
        every += [done for one in self.presets for done in one.processes.values()]
        return max(done.peak_gib for done in every)


@dataclass(frozen=True)
class Bar:
    """Hold one requirement and how it came out.

    Attributes:
        of: Preset, or ``preparation`` or ``aggregator``.
        text: What is required.
        measured: What was found.
        met: Whether that is enough.
    """

    of: str
    text: str
    measured: str
    met: bool

    def __str__(self) -> str:
        return f"{self.of}: {self.text}: {self.measured}"


def bars(outcome: FullSizeOutcome) -> list[Bar]:
    """Return every requirement of a run."""
    found = process_bars("preparation", outcome.prepared)
    for result in outcome.presets:
        found += preset_bars(result, outcome.steps + 1)
    found += process_bars("aggregator", {f"{views} view(s)": done for views, done in outcome.aggregator.items()})
    for views, figures in outcome.aggregator_figures.items():
        found.append(yes_or_no("aggregator", f"{views} view(s): finite output", figures["finite"]))
    return found


def process_bars(of: str, processes: Mapping[str, Process]) -> list[Bar]:
    """Check exit status and memory of every process."""
    found = []
    for name, done in processes.items():
        found.append(Bar(of, f"{name}: exit status 0", str(done.status), done.status == 0))
        text = f"{name}: peak memory at most {MAX_PEAK_GIB:g} GiB"
        found.append(Bar(of, text, f"{done.peak_gib:.2f} GiB", done.peak_gib <= MAX_PEAK_GIB))
    return found


def preset_bars(result: PresetResult, steps: int) -> list[Bar]:
    """Return what a preset has to keep; if a stage failed, that is the bar it misses.

    Args:
        result: What was measured.
        steps: Training steps, the resumed one included.
    """
    name, act = result.preset, result.act
    found = process_bars(name, result.processes)
    if not act:
        return found
    trained, size, shape = act["trained_parameters"], result.checkpoint_mb, act["action_shape"]
    if most := MAX_TRAINED.get(name):
        found.append(Bar(name, f"at most {most:,} trained parameters", f"{trained:,}", trained <= most))
    if limit := MAX_CHECKPOINT_MB.get(name):
        found.append(Bar(name, f"model.safetensors of at most {limit:g} MB", f"{size:.0f} MB", size <= limit))
    if result.load:
        ratio = result.load["ratio"]
        text = f"own memory while loading in bfloat16 at most {MAX_LOAD_RATIO:g} times what stays"
        found.append(Bar(name, text, f"{ratio:.2f}", ratio <= MAX_LOAD_RATIO))
    # LeRobot's log is searched for numbers: a loss that is none is missing.
    losses = len(result.losses)
    return [
        *found,
        Bar(name, f"{steps} finite losses", str(losses), losses == steps),
        Bar(name, f"resumed up to step {steps}", f"step {result.last_step}", result.last_step == steps),
        yes_or_no(name, "finite trained weights", act["trained_finite"]),
        yes_or_no(name, "finite actions", act["actions_finite"]),
        Bar(name, f"actions of shape {tuple(ACTION_SHAPE)}", str(tuple(shape)), shape == ACTION_SHAPE),
    ]


def yes_or_no(of: str, text: str, met: bool) -> Bar:
    """Return a requirement without a number."""
    return Bar(of, text, "yes" if met else "no", met)


def passed(outcome: FullSizeOutcome) -> list[str]:
    """Return the names of the presets that miss nothing."""
    missed = {bar.of for bar in bars(outcome) if not bar.met}
    return [result.preset for result in outcome.presets if result.preset not in missed]


def preset_table(outcome: FullSizeOutcome) -> list[str]:
    """Show one row per preset."""
    good = passed(outcome)

    def processes(show: Callable[[Process], str]) -> Callable[[PresetResult], str]:
        return lambda result: " / ".join(show(done) for done in result.processes.values())

    def acting(show: Callable[[dict[str, Any]], str]) -> Callable[[PresetResult], str]:
        return lambda result: show(result.act) if result.act else "-"

    def millions(act: dict[str, Any]) -> str:
        return f"{act['trained_parameters'] / 1e6:.1f} / {act['all_parameters'] / 1e6:,.1f}"

    return table_of(
        outcome.presets,
        ("preset", lambda result: result.preset),
        ("result", lambda result: "pass" if result.preset in good else "**fail**"),
        ("trained / all parameters, M", acting(millions)),
        ("wall (CPU) train / resume / act / load, s", processes(_wall)),
        ("training step, s", lambda result: ", ".join(f"{value:.1f}" for value in result.step_s) or "-"),
        ("peak train / resume / act / load, GiB", processes(lambda done: f"{done.peak_gib:.2f}")),
        (
            "model.safetensors (folder), MB",
            lambda result: f"{result.checkpoint_mb:.0f} ({result.folder_mb:.0f})" if result.checkpoint_mb else "-",
        ),
        ("load, s", acting(lambda act: f"{act['load_s']:.1f}")),
        (
            "first / second / queued action, s",
            acting(
                lambda act: " / ".join(f"{act[f'{which}_action_s']:.3f}" for which in ("first", "second", "queued"))
            ),
        ),
        ("losses", lambda result: ", ".join(f"{value:.3f}" for value in result.losses) or "-"),
    )


def _wall(done: Process) -> str:
    return f"{done.wall_s:.0f} ({done.cpu_s:.0f})"


def load_table(outcome: FullSizeOutcome) -> list[str]:
    """Show loading in bfloat16: one row per preset."""
    return table_of(
        [result for result in outcome.presets if result.load],
        ("preset", lambda result: result.preset),
        ("weights, GiB", lambda result: f"{result.load['weights_gib']:.2f}"),
        (
            "own memory before / most / after, GiB",
            lambda result: " / ".join(f"{result.load[f'{when}_gib']:.2f}" for when in ("before", "peak", "after")),
        ),
        ("most over after, both less before", lambda result: f"{result.load['ratio']:.2f}"),
        ("s", lambda result: f"{result.load['load_s']:.1f}"),
    )


def aggregator_table(outcome: FullSizeOutcome) -> list[str]:
    """Show one row per number of views, the reference's figures beside ours."""
    head = ("views", "forward, s: median (each)", "wall (CPU), s", "peak, GiB (private)")
    rows = []
    for views, done in outcome.aggregator.items():
        seconds, private = "-", ""
        if figures := outcome.aggregator_figures.get(views):
            each = ", ".join(f"{value:.2f}" for value in figures["forward_s"])
            seconds = f"{figures['median_forward_s']:.2f} ({each})"
            private = f" ({figures['private_gib']:.2f})"
        rows.append((str(views), seconds, _wall(done), f"{done.peak_gib:.2f}{private}", *REFERENCE[views]))
    return table((*head, "reference: forward, s", "reference: peak, GiB"), rows)


def full_size_page(
    outcome: FullSizeOutcome, last_line: str, commands: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Return the Markdown report of ``eval.full_size``: bars, presets, loading, and VGGT's aggregator alone.

    Args:
        outcome: What was measured.
        last_line: Last line of the run's output.
        commands: Lines of the list of commands.
        environment: Versions and machine.
    """
    every = bars(outcome)
    missed = [bar for bar in every if not bar.met]
    lines = ["# The full presets at their true size, on a CPU", "", f"`{last_line}`", "", *NOTE.splitlines(), ""]
    lines += ["## Presets", "", *preset_table(outcome), ""]
    if any(result.load for result in outcome.presets):
        lines += ["## Loading a checkpoint, backbones in bfloat16", "", *LOAD_NOTE.splitlines(), ""]
        lines += [*load_table(outcome), ""]
    if outcome.aggregator:
        lines += ["## VGGT's aggregator alone: batch 1, 224 px, float32, two threads", ""]
        lines += [*aggregator_table(outcome), "", *REFERENCE_NOTE.splitlines(), ""]
    lines += [f"## Bars: {len(every) - len(missed)} of {len(every)} met", ""]
    lines += [*(f"- MISSED: {bar}" for bar in missed), *([""] if missed else [])]
    lines += table(
        ("of", "bar", "measured", "met"),
        [(bar.of, bar.text, bar.measured, "yes" if bar.met else "**no**") for bar in every],
    )
    return "\n".join([*lines, "", *origin(commands, environment)])
