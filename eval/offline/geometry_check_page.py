"""The page of ``eval.geometry_check``: what the numbers mean for a policy with landmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.common.markdown import origin, table

NOTE = """Medians over {frames} frames of `{dataset}`, spread evenly; in brackets the range of the middle 80 %.
`{model}` saw the views {views} together at {size} pixels. The first view is the reference."""
READING = """*Overlap* is by the true points: without any, a backbone that knows no robot cannot tell where the views
are to each other. *Scale* is the backbone's unit: set `--policy.landmark_scale={scale:.4g}`; if its range is wide, no
one number will do. *Points* and *cameras* are compared after the best scale of every frame, and after one scale for
all. Acting takes about 1 cm at the gripper."""


def geometry_check_page(content: Mapping[str, Any]) -> str:
    """Return the Markdown report of ``eval.geometry_check``: overlap, scale and errors over all frames.

    Args:
        content: Of ``report.json``.
    """
    rows, views = content["frames"], content["views"]
    scales = [row["scale"] for row in rows]
    lines = [f"# Geometry of {content['vggt_model']} on {content['dataset']}", ""]
    facts = {
        "frames": len(rows),
        "dataset": content["dataset"],
        "model": content["vggt_model"],
        "views": ", ".join(views),
        "size": " x ".join(map(str, content["image_size"])),
    }
    lines += [NOTE.replace("\n", " ").format(**facts), ""]
    summary = []
    if rows[0]["overlap"] is not None:
        shares = np.array([row["overlap"] for row in rows]) * 100
        summary += [
            (f"overlap: cells of {views[0]} with one of another view within {near:g} cm", spread(column, "%"))
            for near, column in zip(content["near_cm"], shares.T, strict=True)
        ]
    summary.append(("scale: units per meter (predicted / true)", spread(scales)))
    summary.append(("scale of single cells departs by a factor of", spread([row["spread"] for row in rows])))
    lines += table(("measure", "value"), summary)
    lines += ["", *view_table(rows, views)]
    lines += ["", READING.replace("\n", " ").format(scale=1 / float(np.median(scales))), ""]
    return "\n".join([*lines, *origin([f"`{content['command']}`"], content["environment"])])


def view_table(rows: Sequence[Mapping[str, Any]], views: Sequence[str]) -> list[str]:
    """Return the lines of the table with a row per view."""

    def cells(name: str, place: int) -> str:
        return spread([row[name][place] for row in rows])

    head = ("view", "distance, cm", "point error, cm", "with one scale for all, cm", "camera error, cm", "degrees")
    return table(
        head,
        [
            (
                view,
                cells("distance_cm", place),
                cells("point_cm", place),
                cells("point_one_scale_cm", place),
                *(("-", "-") if place == 0 else (cells("camera_cm", place), cells("camera_deg", place))),
            )
            for place, view in enumerate(views)
        ],
    )


def spread(values: Sequence[float] | np.ndarray, unit: str = "") -> str:
    """Return the median and the range of the middle 80 %."""
    low, middle, high = np.nanquantile(np.asarray(values, float), (0.1, 0.5, 0.9))
    return f"{middle:.3g}{unit and ' '}{unit} [{low:.3g}, {high:.3g}]"
