"""The simulator of a run: what its workers are told through the environment, what it is, and which tasks it has."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import Checkpoint, EvaluatedPolicy
from eval.rollout.settings import RunConfig
from eval.rollout.workers.worker import Task
from lerobot_atlasvla.libero.assets import assets_kind, same_files
from lerobot_atlasvla.libero.patches.camera_pose import ENV_CAMERA_SHIFT
from lerobot_atlasvla.libero.patches.deterministic_reset import ENV_DETERMINISTIC_RESET
from lerobot_atlasvla.libero.patches.displacement import ENV_DISPLACE_CM
from lerobot_atlasvla.libero.patches.frame_skipping import ENV_RENDER_CAMERAS, ENV_RENDER_EVERY, NO_CAMERA
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY

logger = logging.getLogger("eval.run")


def simulator_environment(cfg: RunConfig, policy: EvaluatedPolicy) -> dict[str, str]:
    """Return the environment variables that the simulators of the workers go by."""
    environment = {
        ENV_RENDER_QUALITY: cfg.render_quality,
        ENV_CAMERA_SHIFT: cfg.camera_shift().to_env(),
        ENV_DISPLACE_CM: str(cfg.displace_cm),
        ENV_DETERMINISTIC_RESET: "1",
        ENV_CULL: "1" if cfg.fast_render else "0",
        ENV_RENDER_EVERY: "1",
        ENV_RENDER_CAMERAS: "",
        "OMP_NUM_THREADS": str(cfg.threads),
        # Software rendering gets the cores that are left over; its images do not depend on their number.
        "LP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // cfg.processes)),
    }
    if cfg.fast_render:
        environment[ENV_RENDER_CAMERAS] = ",".join(name.removesuffix("_image") for name in policy.cameras) or NO_CAMERA
        if policy.checkpoint.images_every is None:
            logger.info(
                "A policy of type %s may use the images of every step, so all of them are rendered.",
                policy.checkpoint.config.type,
            )
        else:
            environment[ENV_RENDER_EVERY] = str(policy.checkpoint.images_every)
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


def describe_simulator() -> dict[str, str]:
    """Return versions, OpenGL backend, render quality and assets, without paths of this machine.

    Raises:
        EvalError: If nothing can render, or the assets asked for are not there.
    """
    from lerobot_atlasvla.libero import setup
    from lerobot_atlasvla.libero.gl import GlUnavailableError

    try:
        return {name: value for name, value in setup.describe_simulator().items() if name != "assets_path"}
    except (GlUnavailableError, OSError, ValueError) as error:
        raise EvalError(str(error)) from error


def check_assets(cfg: RunConfig, checkpoint: Checkpoint, assets: str) -> None:
    """Refuse to judge a policy on assets of another kind than it was trained on, and warn about other files.

    Raises:
        EvalError: Unless ``--allow_other_assets=true``.
    """
    trained_on = checkpoint.training_assets()
    if trained_on is None or same_files(trained_on, assets):
        return
    if cfg.allow_other_assets or assets_kind(trained_on) == assets_kind(assets):
        logger.warning("The policy was trained on LIBERO assets %s, and is rolled out on %s.", trained_on, assets)
        return
    raise EvalError(
        f"--checkpoint={cfg.checkpoint} was trained on {trained_on} assets, but LIBERO has {assets} ones here, so the "
        "success rate would mean little. Set ATLASVLA_LIBERO_ASSETS to the assets it was trained on, or give "
        "--allow_other_assets=true."
    )


def libero_tasks(suites: Sequence[str], task_ids: Sequence[int] | None, flag: str = "suites") -> list[Task]:
    """Return the tasks asked for, suite by suite; ``flag`` named the suites, for messages.

    Raises:
        EvalError: If LIBERO is not installed or does not know a suite or a task, or the stand-in scene does not cover a
            suite.
    """
    from lerobot_atlasvla.libero.assets import ENV_ASSETS, INSTALL, STAND_IN
    from lerobot_atlasvla.libero.setup import prepare_libero
    from lerobot_atlasvla.libero.standin.scene import SUITES

    try:
        assets = prepare_libero()
    except (ImportError, OSError, ValueError) as error:
        raise EvalError(str(error)) from error
    from libero.libero import benchmark

    known = benchmark.get_benchmark_dict()
    tasks = []
    for name in suites:
        if name not in known:
            raise EvalError(
                f"--{flag} names {name!r}, which LIBERO does not know; allowed: {', '.join(sorted(known))}."
            )
        if assets.kind == STAND_IN and name not in SUITES:
            raise EvalError(
                f"--{flag} names {name}, but the built-in stand-in scene covers {', '.join(SUITES)} only. Run "
                f"`{INSTALL}`, or set {ENV_ASSETS} to LIBERO's assets folder."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # LIBERO announces every suite
            suite = known[name]()
        ids = range(suite.n_tasks) if task_ids is None else sorted(task_ids)
        for task_id in ids:
            if not 0 <= task_id < suite.n_tasks:
                raise EvalError(f"--task_ids names {task_id}; {name} has the tasks 0 to {suite.n_tasks - 1}.")
            tasks.append(Task(name, task_id, suite.get_task(task_id).language))
    return tasks


def task_names(suite: str) -> list[str]:
    """Return the names of a suite's tasks, which are those of their files, in LIBERO's order."""
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):  # LIBERO announces every suite
        return benchmark.get_benchmark_dict()[suite]().get_task_names()
