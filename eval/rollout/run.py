"""``python -m eval.run``: roll a checkpoint out in LIBERO through LeRobot's evaluator; any LeRobot policy will do.

The output folder (``run_folder.py``) is what ``eval.report`` and ``eval.compare`` read. Every finished rollout is in it
at once, so a run that was stopped is continued by the same command.
"""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.common.environment_info import versions
from eval.common.statistics import format_rate
from eval.rollout.camera_keys import PREFIX, SCENE, CameraError, camera_mapping
from eval.rollout.checkpoint import Checkpoint, read_checkpoint
from eval.rollout.checks import (
    check_assets,
    check_same_run,
    choose_device,
    choose_image_size,
    describe_simulator,
    libero_tasks,
    previous_run,
)
from eval.rollout.progress import Filming, Progress
from eval.rollout.run_folder import Run, RunFolderError, open_log, read_run, write_run
from eval.rollout.settings import RunConfig, RunError, union
from eval.rollout.training_record import training_record
from eval.rollout.worker import Job, WorkerSettings
from eval.rollout.worker_pool import Crew, Schedule
from lerobot_atlasvla.sim.camera_shift import ENV_CAMERA_SHIFT
from lerobot_atlasvla.sim.culling import ENV_CULL
from lerobot_atlasvla.sim.displace import ENV_DISPLACE_CM, DisplacementError
from lerobot_atlasvla.sim.look import ENV_LOOK
from lerobot_atlasvla.sim.repeatable import ENV_REPEATABLE
from lerobot_atlasvla.sim.shutter import ENV_RENDER_CAMERAS, ENV_RENDER_EVERY, NO_CAMERA

logger = logging.getLogger("eval.run")

AGAIN = "Everything finished is kept; run the same command again to continue."


def worker_environment(cfg: RunConfig, checkpoint: Checkpoint, cameras: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that the simulators of the workers go by.

    Args:
        cfg: The settings.
        checkpoint: The policy.
        cameras: LIBERO's cameras to the policy's views.
    """
    environment = {
        ENV_LOOK: cfg.look,
        ENV_CAMERA_SHIFT: cfg.camera_shift().to_env(),
        ENV_DISPLACE_CM: str(cfg.displace_cm),
        ENV_REPEATABLE: "1",
        ENV_CULL: "1" if cfg.fast_render else "0",
        ENV_RENDER_EVERY: "1",
        ENV_RENDER_CAMERAS: "",
        "OMP_NUM_THREADS": str(cfg.threads),
        # Software rendering gets the cores that are left over; its pictures do not depend on their number.
        "LP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // _workers(cfg))),
    }
    if cfg.fast_render:
        environment[ENV_RENDER_CAMERAS] = ",".join(name.removesuffix("_image") for name in cameras) or NO_CAMERA
        if checkpoint.pictures_every is None:
            logger.info(
                "A policy of type %s may use the pictures of every step, so all of them are taken.",
                checkpoint.config.type,
            )
        else:
            environment[ENV_RENDER_EVERY] = str(checkpoint.pictures_every)
    return environment


@contextmanager
def exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, for processes started meanwhile."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def new_run(
    cfg: RunConfig, checkpoint: Checkpoint, settings: dict[str, Any], simulator: dict[str, str], command: str
) -> Run:
    """Everything ``run.json`` says, but for the size of the policy, which only a worker knows."""
    path, here = cfg.checkpoint.absolute(), Path.cwd()
    return Run(
        name=cfg.output_dir.resolve().name,
        command=command,
        policy={
            "checkpoint": str(path.relative_to(here) if path.is_relative_to(here) else path),
            "type": checkpoint.config.type,
            "parameters": None,
            "n_action_steps": checkpoint.n_action_steps,
            "chunk_size": checkpoint.chunk_size,
            "weights_sha256": checkpoint.weights_sha256,
            "device": checkpoint.config.device,
        },
        training=training_record(checkpoint.folder),
        settings=settings,
        versions=versions(),
        simulator=simulator,
        path=cfg.output_dir,
    )


def run(cfg: RunConfig, command: str) -> Run:
    """Do what is missing of the rollouts asked for.

    Args:
        cfg: The settings.
        command: How to get here again, for ``run.json``.

    Returns:
        The run folder as it is now.

    Raises:
        RunError: If a setting is wrong, the folder holds something else, no displacement is valid, or a worker died.
        RunFolderError: If the folder cannot be read, or another process is writing to it.
        OSError: If the disk is full, for example. Whatever is raised, everything finished is in the folder.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    cfg.validate()
    before = previous_run(cfg.output_dir)
    register_third_party_plugins()
    device = choose_device(cfg.device)
    checkpoint = read_checkpoint(cfg.checkpoint, device, cfg.n_action_steps)
    try:
        cameras = camera_mapping(list(checkpoint.config.image_features), cfg.cameras)
    except CameraError as error:
        raise RunError(str(error)) from error
    if cfg.overlay and checkpoint.config.type != "atlasvla":
        raise RunError(
            f"--overlay=true is for policies of type atlasvla; this one is of type {checkpoint.config.type}."
        )
    if cfg.overlay and SCENE not in cameras:
        raise RunError("--overlay=true shows the scene camera, which this policy does not have.")
    image_size = choose_image_size(cfg.image_size, checkpoint)
    settings = cfg.settings(checkpoint.n_action_steps, cameras, image_size)
    with exported(worker_environment(cfg, checkpoint, cameras)):
        simulator = describe_simulator()
        check_assets(cfg, checkpoint, simulator["assets"])
        tasks = libero_tasks(cfg.suites, cfg.task_ids)
        now = new_run(cfg, checkpoint, settings, simulator, command)
        if before is not None:
            check_same_run(before, now)
            now = replace(before, settings=union(before.settings, settings))
        views = ", ".join(f"{camera} -> {PREFIX}{view}" for camera, view in cameras.items())
        logger.info("Cameras: %s", views or "none (a blind policy)")
        shared = WorkerSettings(
            checkpoint=checkpoint.folder,
            device=device,
            n_action_steps=cfg.n_action_steps,
            output_dir=cfg.output_dir.resolve(),
            cameras=cameras,
            settle_steps=cfg.settle_steps,
            init_states=cfg.init_states,
            image_size=image_size,
            episode_length=cfg.episode_length,
            threads=cfg.threads,
            overlay=cfg.overlay,
        )
        jobs = [
            Job(task, seed, init_state) for task in tasks for seed in cfg.seeds for init_state in range(cfg.episodes)
        ]
        try:
            _roll_out(now, jobs, shared, cfg)
        except DisplacementError as error:
            raise RunError(str(error)) from error
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process died without a Python error (out of memory, or a crash in the graphics driver?). "
                + AGAIN
            ) from error
    return read_run(cfg.output_dir)


def _roll_out(planned: Run, jobs: Sequence[Job], shared: WorkerSettings, cfg: RunConfig) -> None:
    """Write down what is planned, and do those of the jobs that are missing."""
    missing = [job for job in jobs if job.key not in {rollout.key for rollout in planned.rollouts}]
    with Crew(min(_workers(cfg), len(missing)), shared) as crew:
        if planned.policy["parameters"] is None:
            # It also shows, before anything is written, that the policy loads.
            planned = replace(planned, policy=planned.policy | {"parameters": crew.count_parameters()})
        write_run(planned)
        with open_log(planned.path) as log, closing(Progress([job.key for job in jobs], planned.rollouts)) as progress:
            filming = Filming(cfg.videos, planned.path, planned.rollouts)
            for outcome in crew.roll_out(Schedule(missing), filming.instruct):
                rollout = filming.keep(outcome.rollout)
                log.append(rollout)
                progress.add(rollout)


def _workers(cfg: RunConfig) -> int:
    return cfg.workers or os.cpu_count() or 1


def total_line(run: Run) -> str:
    """Result of everything in a run folder."""
    return f"total: {format_rate(sum(r.success for r in run.rollouts), len(run.rollouts))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its last line of output is the result.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 0 when every rollout asked for is in the run folder, 1 for an error that the message explains, 2
        for a flag that does not parse, 130 when interrupted. Errors inside a worker are raised with its traceback.
    """
    import draccus
    from draccus.utils import DecodingError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logger.setLevel(logging.INFO)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        cfg = draccus.parse(RunConfig, args=arguments)
    except DecodingError as error:
        sys.stderr.write(f"eval.run: {error} (see --help)\n")
        return 2
    try:
        with stoppable():
            finished = run(cfg, shlex.join(["python", "-m", "eval.run", *arguments]))
    except (RunError, RunFolderError) as error:
        sys.stderr.write(f"eval.run: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"eval.run: {error}. {AGAIN}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"eval.run: interrupted. {AGAIN}\n")
        return 130
    sys.stdout.write(f"{total_line(finished)}\n")
    return 0


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, which a job scheduler sends, end the run as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
