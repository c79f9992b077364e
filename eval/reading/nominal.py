"""The diagonal: a run of ``eval.run`` in which the same policy is told the task of its scene."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.former_flags import flag_of
from eval.report.compare import SIMULATOR, differences
from eval.rollout.plan import comparable, same_configuration
from eval.rollout.run_folder import Run, read_run

# They change how a run is made, or what is noted of it, but no success.
_FREE = ("fast_render", "retreat_steps", "threads")


def read_nominal(path: Path, suite: str) -> Run:
    """Read the run of ``eval.run`` that fills the diagonal.

    Raises:
        EvalError: If it is none of ``eval.run`` with rollouts of the suite.
    """
    run = read_run(path)
    if "benchmark" in run.settings:
        raise EvalError(f"--nominal={path} holds a run on {run.settings['benchmark']}; give one of eval.run.")
    if not any(rollout.suite == suite for rollout in run.rollouts):
        raise EvalError(f"--nominal={path} has no finished rollout of {suite}; give a run of that suite.")
    return run


def check_nominal(
    nominal: Run, policy: Mapping[str, Any], settings: Mapping[str, Any], simulator: Mapping[str, str] | None = None
) -> None:
    """Refuse a run of another policy, or one made in another way.

    Args:
        nominal: The run.
        policy: That is told other tasks: its ``weights_sha256`` and ``settings_sha256``, as in :class:`.Run`.
        settings: How it is rolled out (:meth:`.RunConfig.settings`).
        simulator: Versions and assets; None where nothing has been simulated yet.

    Raises:
        EvalError: Naming the first difference.
    """
    if nominal.policy["weights_sha256"] != policy["weights_sha256"]:
        raise EvalError(
            f"--nominal={nominal.path} was made with the weights of {nominal.policy['checkpoint']}, not with those of "
            "--checkpoint; give a run of that checkpoint, or leave it out."
        )
    if not same_configuration(nominal.policy, policy):
        raise EvalError(
            f"--nominal={nominal.path} was made with the weights of --checkpoint, but another config.json or other "
            "pipelines (normalization statistics); give a run of that checkpoint, or leave it out."
        )
    found, wanted = comparable(nominal.settings), comparable(settings)
    differing = differences([name for name in found if name not in _FREE], found, wanted)
    if simulator is not None:
        differing += differences(SIMULATOR, nominal.simulator, simulator, "simulator's ")
    if differing:
        what, theirs, ours = differing[0]
        raise EvalError(
            f"--nominal={nominal.path} can't be the diagonal: its {flag_of(what)} is {theirs}, not {ours}. Run "
            "eval.run with the same settings, or leave it out."
        )
