"""Plan a run: a new run folder, or what is missing of the one that is there."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from eval.common.environment_info import versions
from eval.common.errors import EvalError, check_output_dir
from eval.common.former_flags import flag_of
from eval.rollout.policy.checkpoint import EvaluatedPolicy
from eval.rollout.policy.training_record import training_record
from eval.rollout.run_folder import RUN_FILE, Run, read_run
from eval.rollout.settings import RunConfig, check_placements
from eval.rollout.workers.worker import RolloutJob, Task
from lerobot_atlasvla.libero.assets import same_files

logger = logging.getLogger("eval.run")

GROWING = ("suites", "task_ids", "seeds", "episodes", "fraction")
"""Settings that say how much to do; the others say what a rollout is and are the same for a whole run folder."""
OF_THE_FILES = ("assets_source", "assets_note")
"""What is noted of the simulator's assets beside their kind; a run folder may be continued with another one."""


class Benchmark(Protocol):
    """Make other tasks of LIBERO's."""

    @property
    def name(self) -> str:
        """Return its name and version."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what ``run.json`` records beside the settings of ``eval.run``, by flag; ``fraction`` may grow."""

    def tasks(self, libero: Sequence[Task]) -> list[Task]:
        """Return the tasks that the benchmark runs.

        Args:
            libero: All tasks of the suites that were asked for.
        """


def plan_run(
    cfg: RunConfig,
    policy: EvaluatedPolicy,
    simulator: dict[str, str],
    command: str,
    benchmark: Benchmark | None = None,
) -> Run:
    """Return what ``run.json`` will say: of a new run, or of the one in the folder, which then grows.

    The size of a new policy is missing, which only a worker knows.

    Raises:
        EvalError: If the folder holds something else, or a run that this command can't continue.
    """
    before = previous_run(cfg.output_dir)
    checkpoint = policy.checkpoint
    settings = cfg.settings(checkpoint.n_action_steps, policy.cameras, policy.image_size)
    if (coeff := getattr(checkpoint.config, "temporal_ensemble_coeff", None)) is not None:
        # In force, as n_action_steps. Run folders of earlier versions have no such key.
        settings["temporal_ensemble_coeff"] = coeff
    if benchmark is not None:
        settings |= {"benchmark": benchmark.name} | dict(benchmark.settings)
    path, here = cfg.checkpoint.absolute(), Path.cwd()
    now = Run(
        name=cfg.output_dir.resolve().name,
        command=command,
        policy={
            "checkpoint": str(path.relative_to(here) if path.is_relative_to(here) else path),
            "type": checkpoint.kind,
            "parameters": None,
            "n_action_steps": checkpoint.n_action_steps,
            "chunk_size": checkpoint.chunk_size,
            "weights_sha256": checkpoint.weights_sha256,
            "settings_sha256": checkpoint.settings_sha256,
            "device": checkpoint.config.device,
        },
        training=training_record(checkpoint.folder),
        settings=settings,
        versions=versions(),
        simulator=simulator,
        path=cfg.output_dir,
    )
    if before is None:
        return now
    check_same_run(before, now)
    united = union(before.settings, settings)
    if not cfg.init_states:
        check_placements(united["seeds"], united["episodes"], cfg.output_dir)
    return replace(before, settings=united)


def missing_jobs(cfg: RunConfig, tasks: Sequence[Task], planned: Run) -> tuple[list[RolloutJob], list[RolloutJob]]:
    """Return all rollouts that are asked for, and those of them that are not in the run folder yet."""
    jobs = [RolloutJob(task, seed, state) for task in tasks for seed in cfg.seeds for state in range(cfg.episodes)]
    done = {rollout.key for rollout in planned.rollouts}
    return jobs, [job for job in jobs if job.key not in done]


def previous_run(folder: Path) -> Run | None:
    """Read the run to continue; None for a new or empty folder.

    Raises:
        EvalError: If the folder holds something else.
    """
    check_output_dir(folder, RUN_FILE, "run")
    return read_run(folder) if (folder / RUN_FILE).exists() else None


def check_same_run(before: Run, now: Run) -> None:
    """Refuse to continue a run with another checkpoint, other settings or another simulator; warn of other versions.

    Raises:
        EvalError: Naming the first difference, both values and the flag.
    """
    folder = now.path
    of_before, of_now = (run.settings.get("benchmark", "LIBERO") for run in (before, now))
    if of_before != of_now:
        raise EvalError(
            f"--output_dir={folder} holds a run on {of_before}, and this one is on {of_now}; choose a new --output_dir."
        )
    if "benchmark" in now.settings:
        # Its categories and fraction are those of all suites in the folder.
        check_continues({"suites": before.settings["suites"]}, {"suites": now.settings["suites"]}, folder)
        # It has one seed, which also draws noise and prompts.
        seeds_before, seeds_now = (", ".join(map(str, run.settings["seeds"])) for run in (before, now))
        check_continues({"seed": seeds_before}, {"seed": seeds_now}, folder)
    if before.policy["weights_sha256"] != now.policy["weights_sha256"]:
        raise EvalError(
            f"--checkpoint={now.policy['checkpoint']} has weights {now.policy['weights_sha256'][:12]}..., but the run "
            f"in --output_dir={folder} was made with {before.policy['checkpoint']}, "
            f"{before.policy['weights_sha256'][:12]}.... Give that checkpoint, or choose a new --output_dir."
        )
    if not same_configuration(before.policy, now.policy):
        raise EvalError(
            f"--checkpoint={now.policy['checkpoint']} has the weights of the run in --output_dir={folder}, but its "
            "config.json or its pipelines (normalization statistics) have changed since. Restore them, or choose a new "
            "--output_dir."
        )
    check_continues({"device": before.policy["device"]}, {"device": now.policy["device"]}, folder)
    check_continues(comparable(before.settings), comparable(now.settings), folder)
    for name, value in now.simulator.items():
        recorded = before.simulator.get(name)
        if not same_simulator(name, recorded, value) and name not in OF_THE_FILES:
            raise EvalError(
                f"The simulator's {name} is {value}, but the run in --output_dir={folder} was made with "
                f"{recorded}. Restore that, or choose a new --output_dir."
            )
    for name, value in now.versions.items():
        if before.versions.get(name) != value:
            logger.warning("The run was begun with %s %s; this is %s.", name, before.versions.get(name), value)


def check_continues(recorded: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to mix rollouts that cannot be compared in one run folder.

    Args:
        recorded: Values by setting, as the run folder has them.
        asked: The same of this command.
        folder: The run folder, for the message.

    Raises:
        EvalError: Naming the first difference, both values and the flag.
    """
    for name, value in asked.items():
        if recorded.get(name) != value:
            raise EvalError(
                f"--{flag_of(name)}: the run in --output_dir={folder} was made with {recorded.get(name)}, this command "
                f"asks for {value}. Continue it with the same {flag_of(name)}, or choose a new --output_dir."
            )


def same_simulator(name: str, recorded: str | None, present: str | None) -> bool:
    """Tell whether two records of the simulator agree in ``name``; early ones call all assets "official"."""
    return same_files(recorded, present) if name == "assets" and recorded and present else recorded == present


def same_configuration(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two policies, as runs record them, can have one config.json and pipelines; early runs do not say."""
    return len({one.get("settings_sha256"), other.get("settings_sha256")} - {None}) < 2


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of :meth:`RunConfig.settings` that a whole run folder shares, camera shift by direction."""
    shared = {name: value for name, value in settings.items() if name not in (*GROWING, "camera_shift")}
    return {"temporal_ensemble_coeff": None, "base_tasks": None} | shared | settings["camera_shift"]


def union(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Unite the settings of a run folder that was first asked for one amount and now for another.

    Returns:
        ``recorded`` itself, in content, if nothing new is asked for.
    """
    merged = dict(recorded)
    for name in ("suites", "seeds"):
        merged[name] = [*recorded[name], *(value for value in asked[name] if value not in recorded[name])]
    if recorded["task_ids"] is None or asked["task_ids"] is None:
        merged["task_ids"] = None
    else:
        merged["task_ids"] = sorted({*recorded["task_ids"], *asked["task_ids"]})
    for name in ("episodes", "fraction"):
        if name in recorded:
            merged[name] = max(recorded[name], asked[name])
    return merged
