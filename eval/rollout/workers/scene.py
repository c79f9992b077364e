"""Define what a task adds to LIBERO's own: other descriptions or states, perturbations of rollouts, another judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Scene:
    """Name what a simulator is built for; tasks with the same scene share one.

    Attributes:
        suite: LIBERO suite, which also says how long an episode may last.
        task_id: Index of the task in the suite.
        bddl_file: Description of the task instead of LIBERO's.
        states_file: Fixed initial states instead of LIBERO's, (number, length) in a ``.npy`` file.
        objects: Kinds of objects that the description names and LIBERO does not have.
    """

    suite: str
    task_id: int
    bddl_file: Path | None = None
    states_file: Path | None = None
    objects: tuple["ObjectKind", ...] = ()

    def replace_files(self, env: Any) -> None:
        """Give LeRobot's ``LiberoEnv``, whose simulator is not built yet, the files of this scene."""
        for kind in self.objects:
            kind.register()
        if self.bddl_file is not None:
            env._task_bddl_file = str(self.bddl_file)
        if self.states_file is not None:
            env._init_states = np.load(self.states_file, allow_pickle=False)


class ObjectKind(Protocol):
    """Describe a kind of object; picklable and hashable, since it travels to the workers."""

    def register(self) -> None:
        """Make the kind known to LIBERO in this process."""


class Perturbation(Protocol):
    """Change what is not in a scene's files; picklable and hashable, since it travels to the workers."""

    def prepare(self, env: Any) -> None:
        """Set LeRobot's ``LiberoEnv`` up for its next reset, and undo what an earlier perturbation set."""

    def observe(self, observation: dict[str, Any], frame: int, seed: int, view: str | None) -> dict[str, Any]:
        """Return what the policy sees of an observation of ``LiberoEnv``.

        Args:
            observation: It may be changed in place.
            frame: Control steps since the simulator was reset, settling included.
            seed: Seed of the rollout.
            view: Name of the scene camera's image in it; None if the policy does not look at it.
        """


@dataclass(frozen=True)
class Judgment:
    """Say how an episode stands.

    Attributes:
        over: Whether it ends here.
        success: Whether it counts as one.
        record: What the run folder keeps of it.
    """

    over: bool
    success: bool
    record: Mapping[str, Any]


class Judge(Protocol):
    """Judge a rollout instead of its scene's own goal; picklable and hashable, since it travels to the workers."""

    def assess(self, env: Any, before: Judgment | None) -> Judgment:
        """Judge an episode after its reset and after each of its steps.

        Args:
            env: LeRobot's ``LiberoEnv``.
            before: What this returned a step ago; None after the reset, when objects have settled.
        """
