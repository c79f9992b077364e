"""The table, the page and the plot of ``eval.reliance``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.common.markdown import table
from eval.report.plots import new_figure, save
from eval.report.reliance_results import interval_text, last_line
from lerobot_atlasvla.inspection.reliance import EVERYTHING, IMAGES

PLOT = "reliance.png"
_LABELS = {IMAGES: "images, all", EVERYTHING: "images, state and instruction"}
NOTE = """*Actions* is the mean absolute change of the {n_action_steps} executed actions of a chunk, in units of the
standard deviation of the dataset's actions, over the dimensions {action_dimensions}. *Loss* is the rise of the policy's
own loss, which is {loss} on the unchanged frames. Images, state and instruction are replaced by those of another
episode at the same relative position, which may be of another task; the instruction by a different one. Geometry
blocks are replaced by noise with the spread of their weights, or removed. Intervals are 95 %, by Student's t over
episodes."""
READING = """A part whose replacement changes nothing is not used. The opposite is weaker: actions that change with the
geometry blocks as noise show that the policy's input comes through them, not that it needs what it sees. For that,
compare success with a policy trained and evaluated without images."""


def label(name: str) -> str:
    """Return a part's name for readers."""
    return _LABELS.get(name, name)


def reliance_table(content: Mapping[str, Any]) -> list[str]:
    """Return one row per part, as Markdown."""
    rows = []
    for one in content["parts"]:
        cells = (
            [one["reason"], ""]
            if one["reason"]
            else [interval_text(one[key]) for key in ("action_change", "loss_rise")]
        )
        rows.append((label(one["name"]), *cells))
    return table(("replaced", "actions, stds [95 %]", "loss [95 %]"), rows)


def frames_text(content: Mapping[str, Any]) -> str:
    """Say in a sentence which frames were measured."""
    return (
        f"Frames per episode: {content['frames_per_episode']}; episodes: {len(content['episodes'])} of "
        f"`{content['dataset']}` ({content['episodes_are']})."
    )


def reliance_page(content: Mapping[str, Any]) -> str:
    """Return the page of ``eval.reliance``, in Markdown.

    Args:
        content: Of ``reliance.json``.
    """
    checkpoint = content["checkpoint"]
    dimensions = ", ".join(map(str, content["action_dimensions"]))
    note = NOTE.replace("\n", " ").format(
        n_action_steps=content["n_action_steps"], action_dimensions=dimensions, loss=interval_text(content["loss"])
    )
    lines = [f"# Reliance of {checkpoint['path']} ({checkpoint['type']})", "", f"`{last_line(content)}`", ""]
    lines += [frames_text(content), "", *reliance_table(content), "", f"![reliance]({PLOT})", ""]
    lines += [note, "", *READING.splitlines(), ""]
    lines += ["## Command", "", "```bash", content["command"], "```", "", "## Versions", ""]
    facts = {"weights_sha256": checkpoint["weights_sha256"], "device": content["device"], "seed": content["seed"]}
    facts |= {"training steps": content["training_steps"], "episodes": ", ".join(map(str, content["episodes"]))}
    facts |= content["environment"]
    lines += [*(f"- {name}: {value}" for name, value in facts.items() if value is not None), ""]
    return "\n".join(lines)


def plot_reliance(content: Mapping[str, Any], path: Path) -> None:
    """Plot the change of the actions part by part, with intervals, to ``path``."""
    measured = [one for one in content["parts"] if one["action_change"] is not None]
    figure = new_figure(7, 1.2 + 0.4 * len(measured))
    axes = figure.subplots()
    means = [one["action_change"]["mean"] for one in measured]
    errors = [_errors(one["action_change"]) for one in measured]
    axes.barh(range(len(measured)), means, xerr=list(zip(*errors, strict=True)), capsize=3, alpha=0.7)
    axes.set_yticks(range(len(measured)), [label(one["name"]) for one in measured])
    axes.set(ylim=(len(measured) - 0.5, -0.5), xlim=(0, None))
    axes.set_xlabel("change of the executed actions, stds, with 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    save(figure, path)


def _errors(of: Mapping[str, Any]) -> Sequence[float]:
    if of["low"] is None:
        return 0.0, 0.0
    return of["mean"] - of["low"], of["high"] - of["mean"]
