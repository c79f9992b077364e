"""What ``eval.run`` refuses once it knows the checkpoint, the simulator and what the run folder holds already."""

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from eval.rollout.checkpoint import Checkpoint
from eval.rollout.run_folder import RUN_FILE, Run, read_run
from eval.rollout.settings import RunConfig, RunError, check_continues, comparable
from eval.rollout.worker import Task
from lerobot_atlasvla.sim.assets import assets_kind, same_files

logger = logging.getLogger("eval.run")

BLIND_VIDEO_SIZE = 256


def libero_tasks(suites: Sequence[str], task_ids: Sequence[int] | None) -> list[Task]:
    """The tasks asked for, suite by suite.

    Raises:
        RunError: If LIBERO is not installed or does not know a suite or a task, or the stand-in scene does not cover a
            suite.
    """
    from lerobot_atlasvla.sim.assets import ENV_ASSETS, INSTALL, STAND_IN
    from lerobot_atlasvla.sim.setup import prepare_libero
    from lerobot_atlasvla.sim.tabletop import SUITES

    try:
        assets = prepare_libero()
    except (ImportError, OSError, ValueError) as error:
        raise RunError(str(error)) from error
    from libero.libero import benchmark

    known = benchmark.get_benchmark_dict()
    tasks = []
    for name in suites:
        if name not in known:
            raise RunError(f"--suites names {name!r}, which LIBERO does not know; allowed: {', '.join(sorted(known))}.")
        if assets.kind == STAND_IN and name not in SUITES:
            raise RunError(
                f"--suites names {name}, but the built-in stand-in scene covers {', '.join(SUITES)} only. Run "
                f"`{INSTALL}`, or set {ENV_ASSETS} to LIBERO's assets folder."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # LIBERO announces every suite
            suite = known[name]()
        ids = range(suite.n_tasks) if task_ids is None else sorted(task_ids)
        for task_id in ids:
            if not 0 <= task_id < suite.n_tasks:
                raise RunError(f"--task_ids names {task_id}; {name} has the tasks 0 to {suite.n_tasks - 1}.")
            tasks.append(Task(name, task_id, suite.get_task(task_id).language))
    return tasks


def describe_simulator() -> dict[str, str]:
    """Versions, OpenGL backend, look and assets, without paths of this machine.

    Raises:
        RunError: If nothing can render, or the assets asked for are not there.
    """
    from lerobot_atlasvla.sim import setup
    from lerobot_atlasvla.sim.gl import GlUnavailableError

    try:
        return {name: value for name, value in setup.describe_simulator().items() if name != "assets_path"}
    except (GlUnavailableError, OSError, ValueError) as error:
        raise RunError(str(error)) from error


def choose_device(asked: str | None) -> str:
    """``asked``, or cuda where there is one, or cpu.

    Raises:
        RunError: If this machine has no such device.
    """
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"--device={asked} cannot be used here: {str(error).splitlines()[0]}") from error
    return asked


def choose_image_size(asked: int | None, checkpoint: Checkpoint) -> int:
    """``asked``, or the side of the pictures that the policy was trained on; warns where the two differ.

    A blind policy was trained on none: the size is that of its videos.

    Raises:
        RunError: If nothing is asked for and the policy's views have several sizes.
    """
    trained_on = checkpoint.picture_size
    if not checkpoint.config.image_features:
        return asked or BLIND_VIDEO_SIZE
    if asked is None:
        if trained_on is None:
            raise RunError("The policy's views are not square, or of several sizes; choose one with --image_size.")
        return trained_on
    if trained_on not in (None, asked):
        logger.warning(
            "The policy was trained on pictures of %s px and gets %s px. Policies of type atlasvla resize them; "
            "others, such as act, may take them as they are and fail.",
            trained_on,
            asked,
        )
    return asked


def previous_run(folder: Path) -> Run | None:
    """The run to continue; None for a new or empty folder.

    Raises:
        RunError: If the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--output_dir={folder} is a file; it must be a folder.")
    if (folder / RUN_FILE).exists():
        return read_run(folder)
    # A name with a dot is what a run killed in its first moment may leave.
    if folder.exists() and (found := sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")):
        raise RunError(
            f"--output_dir={folder} holds something that is no run ({', '.join(found[:3])}); choose a new folder."
        )
    return None


def check_same_run(before: Run, now: Run) -> None:
    """Refuse to continue a run with another checkpoint, other settings or another simulator; warn of other versions.

    Raises:
        RunError: Naming the first difference, both values and the flag.
    """
    folder = now.path
    if before.policy["weights_sha256"] != now.policy["weights_sha256"]:
        raise RunError(
            f"--checkpoint={now.policy['checkpoint']} has weights {now.policy['weights_sha256'][:12]}..., but the run "
            f"in --output_dir={folder} was made with {before.policy['checkpoint']}, "
            f"{before.policy['weights_sha256'][:12]}.... Give that checkpoint, or choose a new --output_dir."
        )
    check_continues({"device": before.policy["device"]}, {"device": now.policy["device"]}, folder)
    check_continues(comparable(before.settings), comparable(now.settings), folder)
    for name, value in now.simulator.items():
        recorded = before.simulator.get(name)
        # Runs of earlier versions say "official" only.
        same = same_files(recorded, value) if name == "assets" and recorded else recorded == value
        if not same and name not in ("assets_source", "assets_note"):
            raise RunError(
                f"The simulator's {name} is {value}, but the run in --output_dir={folder} was made with "
                f"{recorded}. Restore that, or choose a new --output_dir."
            )
    for name, value in now.versions.items():
        if before.versions.get(name) != value:
            logger.warning("The run was begun with %s %s; this is %s.", name, before.versions.get(name), value)


def check_assets(cfg: RunConfig, checkpoint: Checkpoint, assets: str) -> None:
    """Refuse to judge a policy on assets of another kind than it was trained on, and warn about other files.

    Raises:
        RunError: Unless ``--allow_other_assets=true``.
    """
    trained_on = checkpoint.training_assets()
    if trained_on is None or same_files(trained_on, assets):
        return
    if cfg.allow_other_assets or assets_kind(trained_on) == assets_kind(assets):
        logger.warning("The policy was trained on LIBERO assets %s, and is rolled out on %s.", trained_on, assets)
        return
    raise RunError(
        f"--checkpoint={cfg.checkpoint} was trained on {trained_on} assets, but LIBERO has {assets} ones here, so the "
        "success rate would mean little. Set ATLASVLA_LIBERO_ASSETS to the assets it was trained on, or give "
        "--allow_other_assets=true."
    )
