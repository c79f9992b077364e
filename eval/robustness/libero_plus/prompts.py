"""What the policy is told: LIBERO-Plus has three candidates, and results with different ones can't be compared."""

from eval.common.errors import EvalError
from eval.robustness.libero_plus.catalog import Catalog
from eval.robustness.libero_plus.tasks import PlusTask, spoken

PROMPTS = {
    "clean": "the training instruction; of language tasks, their paraphrase",
    "bddl": "the :language of the task's description",
    "leaky": "the task's whole name in words, the perturbation's numbers included, as most published numbers have it",
}


def check_prompt(prompt: str, known: dict[str, str]) -> None:
    """Raise :class:`EvalError` for a prompt that is not one of ``known``."""
    if prompt not in known:
        allowed = ", ".join(f"{name} ({meaning})" for name, meaning in known.items())
        raise EvalError(f"--prompt={prompt} is not a prompt; allowed: {allowed}.")


def prompt_of(task: PlusTask, prompt: str, catalog: Catalog) -> str:
    """Return what the policy is told.

    Args:
        task: The task.
        prompt: One of :data:`PROMPTS`.
        catalog: Has the descriptions.

    Raises:
        EvalError: If the package lacks the description.
    """
    # LIBERO-Plus, too, takes the paraphrase from the description.
    if prompt == "bddl" or task.category == "language":
        return catalog.instruction(task)
    return spoken(task.base if prompt == "clean" else task.name)
