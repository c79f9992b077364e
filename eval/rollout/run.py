"""``python -m eval.run``: roll a checkpoint out in LIBERO through LeRobot's evaluator; any LeRobot policy will do.

The stages, from top to bottom: the settings, the policy, the simulator, the plan, the rollouts. The output folder
(``run_folder.py``) is what ``eval.report`` and ``eval.compare`` read. Every finished rollout is in it at once, so a run
that was stopped is continued by the same command.
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace

from eval.common.cli import run_command, stoppable
from eval.common.errors import EvalError
from eval.common.files import only_writer
from eval.common.statistics import format_rate
from eval.rollout.plan import Benchmark, missing_jobs, plan_run, previous_run
from eval.rollout.policy.camera_keys import PREFIX
from eval.rollout.policy.checkpoint import EvaluatedPolicy, open_policy
from eval.rollout.progress import Filming, Progress
from eval.rollout.run_folder import Run, open_log, read_run, write_run
from eval.rollout.settings import RunConfig
from eval.rollout.simulator import check_assets, describe_simulator, exported, libero_tasks, simulator_environment
from eval.rollout.workers.worker import RolloutJob, WorkerSettings
from eval.rollout.workers.worker_pool import Schedule, WorkerPool
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from lerobot_atlasvla.utils.cli import log_to_terminal

logger = logging.getLogger("eval.run")

AGAIN = "Everything finished is kept; run the same command again to continue."


def run(cfg: RunConfig, command: str, benchmark: Benchmark | None = None) -> Run:
    """Do what is missing of the rollouts asked for.

    Args:
        cfg: The settings.
        command: How to get here again, for ``run.json``.
        benchmark: Makes other tasks of LIBERO's.

    Returns:
        The run folder as it is now.

    Raises:
        EvalError: If a setting is wrong, the folder holds something else, can't be read or is being written to, no
            displacement is valid, or a worker died.
        OSError: If the disk is full, for example. Whatever is raised, everything finished is in the folder.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    cfg.validate()
    previous_run(cfg.output_dir)  # a folder that holds something else shows before a policy is read
    register_third_party_plugins()
    with only_writer(cfg.output_dir):
        _run_alone(cfg, command, benchmark)
        return read_run(cfg.output_dir)


def _run_alone(cfg: RunConfig, command: str, benchmark: Benchmark | None) -> None:
    """Do what is missing, in a folder that nobody else writes to."""
    policy = open_policy(cfg)
    with exported(simulator_environment(cfg, policy)):
        simulator = describe_simulator()
        check_assets(cfg, policy.checkpoint, simulator["assets"])
        tasks = libero_tasks(cfg.suites, cfg.task_ids)
        if benchmark is not None:
            tasks = benchmark.tasks(tasks)
        policy.checkpoint.check_instructions([task.instruction for task in tasks])
        planned = plan_run(cfg, policy, simulator, command, benchmark)
        views = ", ".join(f"{camera} -> {PREFIX}{view}" for camera, view in policy.cameras.items())
        logger.info("Cameras: %s", views or "none (a blind policy)")
        try:
            _roll_out(cfg, policy, planned, *missing_jobs(cfg, tasks, planned))
        except DisplacementError as error:
            raise EvalError(str(error)) from error
        except BrokenProcessPool as error:
            raise EvalError(
                "A worker process died without a Python error (out of memory, or a crash in the graphics driver?). "
                + AGAIN
            ) from error


def _roll_out(
    cfg: RunConfig, policy: EvaluatedPolicy, planned: Run, jobs: Sequence[RolloutJob], missing: Sequence[RolloutJob]
) -> None:
    """Write down what is planned, and do those of the jobs that are missing."""
    shared = WorkerSettings(
        checkpoint=policy.checkpoint.folder,
        device=policy.device,
        overrides=cfg.policy_overrides,
        output_dir=cfg.output_dir.resolve(),
        cameras=policy.cameras,
        settle_steps=cfg.settle_steps,
        init_states=cfg.init_states,
        image_size=policy.image_size,
        video_size=cfg.video_size,
        episode_length=cfg.episode_length,
        threads=cfg.threads,
        retreat_steps=cfg.retreat_steps,
        overlay=cfg.overlay,
    )
    with WorkerPool(min(cfg.processes, len(missing)), shared) as pool:
        if planned.policy["parameters"] is None:
            # It also shows, before anything is written, that the policy loads.
            planned = replace(planned, policy=planned.policy | {"parameters": pool.count_parameters()})
        write_run(planned)
        with open_log(planned.path) as log, closing(Progress([job.key for job in jobs], planned.rollouts)) as progress:
            filming = Filming(cfg.videos, planned.path, planned.rollouts)
            for outcome in pool.roll_out(Schedule(missing), filming.instruct):
                rollout = filming.keep(outcome.rollout)
                log.append(rollout)
                progress.add(rollout)


def total_line(run: Run) -> str:
    """Return the result of everything in a run folder."""
    return f"total: {format_rate(sum(r.success for r in run.rollouts), len(run.rollouts))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0 when every rollout is in the run folder, else as :func:`.run_command`."""
    log_to_terminal("eval.run")

    def body(cfg: RunConfig, command: str) -> None:
        with stoppable():
            finished = run(cfg, command)
        sys.stdout.write(f"{total_line(finished)}\n")

    return run_command("eval.run", RunConfig, body, argv, again=AGAIN)
