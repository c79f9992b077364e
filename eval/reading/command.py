"""``python -m eval.reading``: does a policy read its instruction? It is told one task in the scene of another.

A rollout is one of ``eval.run`` with the same workers, run folder and rendering; the goals of all tasks judge it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from eval.common.cli import run_command, stoppable
from eval.common.errors import EvalError, check_at_least, check_in_range, check_report_name
from eval.reading.goals import read_tasks
from eval.reading.nominal import check_nominal, read_nominal
from eval.reading.pairs import InstructionPairs
from eval.reading.report import KIND, write_report
from eval.report.data import note_text
from eval.rollout.policy.checkpoint import open_policy
from eval.rollout.run import AGAIN, run
from eval.rollout.run_folder import Run, read_run
from eval.rollout.settings import FIXED_STATES, PolicySettings, RunConfig
from lerobot_atlasvla.libero.tasks import SUITE_TASKS
from lerobot_atlasvla.utils.cli import log_to_terminal


@dataclass(kw_only=True)
class ReadingConfig(PolicySettings):
    """Tell a policy one task in another one's scene. Running the same command again continues where it was stopped."""

    # LIBERO suite. The tasks of libero_goal share one scene; of other suites, choose tasks with the same objects.
    suite: str = "libero_goal"
    # Tasks whose scenes and initial states are taken, for example '[0, 3]'. All if not given.
    task_ids: list[int] | None = None
    # Tasks whose instructions are told, in the scenes of the others. All if not given.
    told_task_ids: list[int] | None = None
    # Rollouts per pair of tasks, on the fixed initial states 0, 1, 2, ... of the scene's task; at most 50.
    states: int = 3
    # Seed of the simulator's resets and of policies that draw random numbers.
    seed: int = 1000
    # Videos to keep per pair: of rollouts that did not do what was told; of the others, among as many first states.
    videos: int = 0
    # Run folder of eval.run with the same checkpoint: what it does when it is told the task of its scene.
    nominal: Path | None = None
    # The report is written to REPORTS/NAME; into the run folder if not given.
    name: str = ""
    # Folder of all reports.
    reports: Path = Path("eval/results")
    # Markdown file with remarks by hand. If not given, those of the report that is replaced are kept.
    note: Path | None = None
    # Run nothing; write the report from what is in --output_dir.
    report_only: bool = False

    @property
    def report(self) -> Path:
        """Return the folder of the report.

        Raises:
            EvalError: If ``name`` is not one.
        """
        if not self.name:
            return self.output_dir
        check_report_name(self.name, self.reports)
        return self.reports / self.name

    def run_config(self) -> RunConfig:
        """Return the settings for ``eval.run``."""
        return RunConfig(
            suites=[self.suite],
            seeds=[self.seed],
            episodes=self.states,
            **{setting.name: getattr(self, setting.name) for setting in fields(PolicySettings)},
        )

    def validate(self) -> None:
        """Raise :class:`EvalError` for the first setting that cannot work on its own."""
        if self.suite not in SUITE_TASKS:
            raise EvalError(f"--suite={self.suite} is not known; allowed: {', '.join(SUITE_TASKS)}.")
        check_at_least(self, states=1)
        if self.states > FIXED_STATES:
            raise EvalError(f"--states={self.states} must be at most {FIXED_STATES}, as many as LIBERO fixes per task.")
        check_in_range(self, seed=(0, 2**32 - self.states - 1))
        tasks = SUITE_TASKS[self.suite]
        for flag in ("task_ids", "told_task_ids"):
            ids = getattr(self, flag)
            if ids is None:
                continue
            if not ids or len(set(ids)) < len(ids):
                raise EvalError(f"--{flag}={ids} must name at least one, and none twice.")
            if unknown := [task_id for task_id in ids if not 0 <= task_id < tasks]:
                raise EvalError(f"--{flag} names {unknown[0]}; {self.suite} has the tasks 0 to {tasks - 1}.")
        self.run_config().validate()


def read_and_check_nominal(cfg: ReadingConfig) -> Run | None:
    """Read the run for the diagonal, and refuse it before hours of rollouts if it is of another policy.

    Raises:
        EvalError: As :func:`.read_nominal`, :func:`.check_nominal` and :func:`.open_policy`.
    """
    if cfg.nominal is None:
        return None
    from lerobot.utils.import_utils import register_third_party_plugins

    nominal = read_nominal(cfg.nominal, cfg.suite)
    if not cfg.report_only:
        register_third_party_plugins()
        asked = cfg.run_config()
        policy = open_policy(asked)
        checkpoint = policy.checkpoint
        settings = asked.settings(checkpoint.n_action_steps, policy.cameras, policy.image_size)
        coeff = getattr(checkpoint.config, "temporal_ensemble_coeff", None)
        digests = {"weights_sha256": checkpoint.weights_sha256, "settings_sha256": checkpoint.settings_sha256}
        check_nominal(nominal, digests, settings | {"temporal_ensemble_coeff": coeff})
    return nominal


def read(cfg: ReadingConfig, command: str) -> None:
    """Roll out what is missing, and write the report; the last line of output is how often it did what it was told.

    Raises:
        EvalError: If a setting is wrong, or as ``eval.run`` does. Everything finished is kept.
        OSError: If the disk is full, for example.
    """
    cfg.validate()
    folder = cfg.report
    note = note_text(cfg.note, folder, KIND)
    nominal = read_and_check_nominal(cfg)
    if not cfg.report_only:
        swapped = InstructionPairs(cfg.suite, read_tasks(cfg.suite), cfg.task_ids, cfg.told_task_ids)
        swapped.tasks()  # what can't be told apart is refused before a policy is loaded
        with stoppable():
            run(cfg.run_config(), command, swapped)
    page, total = write_report(read_run(cfg.output_dir), folder, nominal, note)
    sys.stdout.write(f"report: {page}\ntold: {total}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0 when every rollout is in the run folder, else as :func:`.run_command`."""
    log_to_terminal("eval.run")
    return run_command("eval.reading", ReadingConfig, read, argv, again=AGAIN)
