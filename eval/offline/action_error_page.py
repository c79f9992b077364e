"""The page of ``eval.action_error``: a table, how the policies of one type differ, and how they were trained."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eval.common.markdown import table

NOTE = """Mean absolute error of the first {steps} actions on {frames} frames, spread evenly over the {episodes}
episodes of `{dataset}`. Actions are those of the controller, in [-1, 1]; the intervals are 95 %, over episodes. *Other
images* are those of the frame half the dataset away, while state and instruction are the frame's own: a policy that
does no worse with them does not look."""


def cells(error: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Return the mean of each part of the action and half of its interval, if there is one."""
    return [f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}" for mean, half in error.values()]


def action_error_page(content: Mapping[str, Any]) -> str:
    """Return the Markdown report of ``eval.action_error``: each policy's mean error by part of the action.

    Args:
        content: Of ``report.json``.
    """
    policies = content["policies"]
    parts = list(policies[0]["error"])
    rows = []
    for one in policies:
        other = one.get("error_other_pictures")
        steps = one.get("steps")
        rows.append(
            (
                one["label"],
                "-" if steps is None else f"{steps:,}",
                *cells(one["error"]),
                *(cells(other) if other else ["-"] * len(parts)),
            )
        )
    lines = [f"# {content['name']}: error of actions on demonstrated frames", ""]
    lines += [NOTE.replace("\n", " ").format(**content), ""]
    lines += table(("policy", "training steps", *parts, *(f"{part}, other images" for part in parts)), rows)
    if content["note"]:
        lines += ["", "## Notes", "", content["note"].strip()]
    lines += ["", "## Command", "", "```bash", *content["commands"], "```"]
    for one in policies:
        if "checkpoint" in one:
            lines += ["", f"## {one['label']}", ""]
            lines += [f"- {name}: {one[name]}" for name in ("checkpoint", "type", "weights_sha256")]
            lines += [f"- {name}: {value}" for name, value in own_settings(one, policies).items()]
            if one["command"]:
                lines += ["", "```bash", one["command"], "```"]
    lines += ["", "## Versions", "", *(f"- {name}: {value}" for name, value in content["environment"].items()), ""]
    return "\n".join(lines)


def own_settings(one: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the settings of a policy's training in which not all policies of its type are the same, as JSON."""
    alike = [_flat(other["settings"]) for other in policies if other.get("type") == one["type"]]
    return {
        name: value
        for name, value in _flat(one["settings"]).items()
        if any(other.get(name) != value for other in alike)
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    flat = {name: value for name, value in settings.items() if name != "policy"}
    flat |= {f"policy.{name}": value for name, value in settings.get("policy", {}).items()}
    return {name: json.dumps(value) for name, value in flat.items()}
