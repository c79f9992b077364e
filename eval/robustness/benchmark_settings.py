"""Settings that ``eval.plus`` and ``eval.pro`` share: they roll one policy out on tasks made of LIBERO's."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from eval.common.errors import check_in_range
from eval.rollout.settings import PolicySettings, RunConfig
from lerobot_atlasvla.libero.tasks import SPATIAL


@dataclass(kw_only=True)
class BenchmarkSettings(PolicySettings):
    """Hold the settings of a benchmark's run."""

    # Folder of the run and its report. It must not exist yet, or hold a run of the same checkpoint and settings.
    output_dir: Path
    # LIBERO suites: libero_spatial, libero_object, libero_goal, libero_10.
    suites: list[str] = field(default_factory=lambda: [SPATIAL])
    # Seed of the simulator's resets, of policies that draw random numbers, and of the noise.
    seed: int = 1000
    # Steps that a rollout goes on after a success, so that "undisturbed" covers the retreat of the arm, too.
    retreat_steps: int = 20
    # Videos to keep per task: of a failure, or a success.
    videos: int = 0
    # Run folders of the same tasks to show beside, for example of a blind policy: '[outputs/plus_blind]'.
    controls: list[Path] = field(default_factory=list)
    # Run nothing; write the report from what is in --output_dir.
    report_only: bool = False

    @property
    def rollouts_per_task(self) -> int:
        """Return how often each task is done."""
        return 1

    def run_config(self) -> RunConfig:
        """Return the settings for ``eval.run``.

        Raises:
            EvalError: If the seed is none; the other settings are checked by ``eval.run``.
        """
        episodes = self.rollouts_per_task
        check_in_range(self, seed=(0, 2**32 - episodes - 1))
        return RunConfig(
            suites=list(self.suites),
            seeds=[self.seed],
            episodes=episodes,
            retreat_steps=self.retreat_steps,
            **{setting.name: getattr(self, setting.name) for setting in fields(PolicySettings)},
        )
