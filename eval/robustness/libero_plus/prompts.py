"""Choose the instruction: LIBERO-Plus has three candidates, and results with different ones can't be compared."""

import hashlib

import numpy as np

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import Catalog
from eval.robustness.libero_plus.tasks import PlusTask
from lerobot_atlasvla.libero.tasks import task_from_name

OTHER_TASK = "other_task"
PROMPTS = {
    "clean": "the training instruction; of language tasks, their paraphrase",
    "bddl": "the :language of the task's description",
    "leaky": "the task's whole name in words, the perturbation's numbers included, as most published numbers have it",
    OTHER_TASK: "the training instruction of another task of the suite, drawn at random: a control, not LIBERO-Plus",
}


def check_prompt(prompt: str, known: dict[str, str]) -> None:
    """Raise :class:`EvalError` for a prompt that is not one of ``known``."""
    if prompt not in known:
        allowed = ", ".join(f"{name} ({meaning})" for name, meaning in known.items())
        raise EvalError(f"--prompt={prompt} is not a prompt; allowed: {allowed}.")


def prompt_of(task: PlusTask, prompt: str, catalog: Catalog, seed: int) -> str:
    """Return what the policy is told.

    Args:
        task: The task.
        prompt: One of :data:`PROMPTS`.
        catalog: Has the descriptions.
        seed: Of the choice of another task's instruction, which also depends on the task's name.

    Raises:
        EvalError: If the package lacks the description.
    """
    if prompt == OTHER_TASK:
        return _instruction_of_another(task, catalog, seed)
    # LIBERO-Plus, too, takes the paraphrase from the description.
    if prompt == "bddl" or task.category == "language":
        return catalog.instruction(task)
    return task_from_name(task.base if prompt == "clean" else task.name)


def _instruction_of_another(task: PlusTask, catalog: Catalog, seed: int) -> str:
    others = sorted({task_from_name(base) for base in catalog.bases[task.suite]} - {task_from_name(task.base)})
    if not others:
        raise EvalError(f"--prompt={OTHER_TASK} needs two tasks in a suite, and {task.suite} has {task.base} only.")
    digest = hashlib.sha256(f"{seed} {task.suite} {task.name}".encode()).digest()
    return others[np.random.default_rng(list(digest)).integers(len(others))]
