"""``reliance.json``: what ``eval.reliance`` measured, written and read."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.common.errors import EvalError
from eval.common.files import read_object
from eval.common.statistics import mean_interval
from eval.report.data import LabeledRun
from eval.rollout.policy.checkpoint import find_checkpoint
from eval.rollout.run_folder import Run
from lerobot_atlasvla.inspection.reliance import (
    BLOCKS_AS_NOISE,
    BLOCKS_REMOVED,
    IMAGES,
    INSTRUCTION,
    STATE,
    Reliance,
)

SCHEMA_VERSION = 1
KIND = "reliance"
RELIANCE_FILE = "reliance.json"
RELIANCE_FOLDER = "reliance"
NOT_MEASURED = "not measured"
# For the last line of the command, where what is in front of it says the rest.
_SHORT = {BLOCKS_REMOVED: "removed"}

Figures = Mapping[str, Any]
"""``mean`` with its 95 % limits ``low`` and ``high`` (None for one episode), and the values of the ``episodes``."""


def default_folder(checkpoint: Path) -> Path | None:
    """Return where the reliance of a checkpoint is kept if no folder is named: beside its ``pretrained_model``.

    Args:
        checkpoint: The folder that has the weights; None is returned for one that ``lerobot-train`` did not name.
    """
    return checkpoint.parent / RELIANCE_FOLDER if checkpoint.name == "pretrained_model" else None


def parts_content(reliance: Reliance) -> list[dict[str, Any]]:
    """Return the measured parts for ``reliance.json``."""
    return [
        {
            "name": part.name,
            # A mean absolute change can't be negative, so its interval ends at 0.
            "action_change": figures(part.action_change_E, lowest=0.0),
            "loss_rise": figures(part.loss_rise_E),
            "reason": part.reason,
        }
        for part in reliance.parts
    ]


def figures(episodes: Iterable[float] | None, lowest: float | None = None) -> dict[str, Any] | None:
    """Return the mean and interval over episodes; None for what was not measured.

    Args:
        episodes: One value per episode.
        lowest: Where the interval ends at the latest.
    """
    if episodes is None:
        return None
    values = list(episodes)
    mean, low, high = mean_interval(values)
    if low is not None and lowest is not None:
        low = max(low, lowest)
    return {"mean": mean, "low": low, "high": high, "episodes": values}


def read_reliance(path: Path | str) -> dict[str, Any]:
    """Read the ``reliance.json`` of ``eval.reliance`` and check it.

    Args:
        path: The file, or the folder that has it.

    Raises:
        EvalError: If there is none, or it is of something else or another version.
    """
    path = Path(path)
    file = path / RELIANCE_FILE if path.is_dir() else path
    if not file.is_file():
        raise EvalError(f"{path} has no {RELIANCE_FILE} of eval.reliance.")
    content = read_object(file, "eval.reliance")
    try:
        kind, version = content["kind"], content["schema_version"]
        digest, _ = _measured(content)
        summary(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{file} is not what eval.reliance writes: {error!r}.") from error
    if (kind, version) != (KIND, SCHEMA_VERSION) or not isinstance(digest, str):
        raise EvalError(f"{file} is of kind {kind!r}, version {version}; this reads {KIND!r}, {SCHEMA_VERSION}.")
    return content


def part(content: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return one part of ``reliance.json``, by its name; None if the policy has no such part."""
    return next((one for one in content["parts"] if one["name"] == name), None)


def image_reliance(content: Mapping[str, Any]) -> Figures | None:
    """Return how much the actions change with another episode's images, in stds; None if not measured."""
    found = part(content, IMAGES)
    return None if found is None else found["action_change"]


def interval_text(of: Figures | None) -> str:
    """Return, for example, ``0.581 [0.402, 0.760]``."""
    if of is None:
        return NOT_MEASURED
    # Adding 0 turns a rounded -0.0 into 0.0.
    mean, *limits = (None if of[key] is None else round(of[key], 3) + 0.0 for key in ("mean", "low", "high"))
    return f"{mean:.3f}" if None in limits else f"{mean:.3f} [{limits[0]:.3f}, {limits[1]:.3f}]"


def last_line(content: Mapping[str, Any]) -> str:
    """Return all of it in one line, the last one that the command prints."""
    words = []
    for name in (IMAGES, STATE, INSTRUCTION, BLOCKS_AS_NOISE, BLOCKS_REMOVED):
        found = part(content, name)
        if found is not None:
            change = found["action_change"]
            # The interval is the images'; with all of them the line would be hard to read.
            value = interval_text(change) if name == IMAGES or change is None else f"{change['mean']:.3f}"
            words.append(f"{_SHORT.get(name, name)} {value}")
    return f"reliance: {', '.join(words)} (stds of the actions)"


def summary(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``reliance.json`` that a report of rollouts keeps: no values of single episodes."""

    def short(of: Figures | None) -> dict[str, Any] | None:
        return None if of is None else {key: of[key] for key in ("mean", "low", "high")}

    kept = ("schema_version", "kind", "checkpoint", "dataset", "episodes", "episodes_are", "frames_per_episode")
    parts = [
        one | {"action_change": short(one["action_change"]), "loss_rise": short(one["loss_rise"])}
        for one in content["parts"]
    ]
    return {key: content[key] for key in kept} | {"parts": parts}


def with_reliance(entries: Sequence[LabeledRun], given: Sequence[Path]) -> list[LabeledRun]:
    """Runs together with what was measured of their checkpoints, which the digest of the weights identifies.

    It is measured on the actions that are executed, so it belongs to runs that execute as many of a chunk. What is
    given comes first, then a ``reliance.json`` in the run folder, in its folder ``reliance`` or beside the checkpoint,
    then what a report already had.

    Args:
        entries: The runs.
        given: Results of ``eval.reliance``: files, or folders that have one.

    Raises:
        EvalError: If one that is given is of none of the runs' checkpoints, or of another number of executed actions,
            or one can't be read.
    """
    of_given = [(path, read_reliance(path)) for path in given]
    digests = {entry.run.policy.get("weights_sha256") for entry in entries} - {None}
    for path, content in of_given:
        if (digest := content["checkpoint"]["weights_sha256"]) not in digests:
            raise EvalError(
                f"--reliance={path} is of a checkpoint with weights_sha256 {digest[:12]}..., which none of --run has."
            )
        if not any(_is_of(content, entry.run) for entry in entries):
            raise EvalError(
                f"--reliance={path} is of {content['n_action_steps']} executed actions of a chunk, and no run of that "
                "checkpoint executes as many; measure again with the run's --n_action_steps."
            )
    found = []
    for entry in entries:
        candidates = [content for _, content in of_given] + _nearby(entry.run)
        of_run = [content for content in candidates if _is_of(content, entry.run)]
        found.append(replace(entry, reliance=summary(of_run[0])) if of_run else entry)
    return found


def _measured(content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the digest of the weights that were measured, and how many actions of a chunk were executed."""
    return content["checkpoint"]["weights_sha256"], content["n_action_steps"]


def _is_of(content: Mapping[str, Any], run: Run) -> bool:
    """Return whether a result of ``eval.reliance`` is of a run's weights, and of as many executed actions."""
    return _measured(content) == (run.policy.get("weights_sha256"), run.policy.get("n_action_steps"))


def _nearby(run: Run) -> list[dict[str, Any]]:
    """Read what lies in the run's folder or beside its checkpoint, of whatever checkpoint it is."""
    # A run that was read from a report has no folder.
    places = [run.path, run.path / RELIANCE_FOLDER] if run.path != Path() else []
    if checkpoint := run.policy.get("checkpoint"):
        with contextlib.suppress(EvalError):  # It may have been moved away since.
            beside = default_folder(find_checkpoint(Path(checkpoint)))
            places += [] if beside is None else [beside]
    return [read_reliance(place) for place in places if (place / RELIANCE_FILE).is_file()]
