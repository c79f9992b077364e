"""What the demo leaves behind: ``report.md``, ``report.png`` and its last two lines of output."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from eval.common.environment_info import versions
from eval.common.statistics import format_rate
from eval.report.plots import plot_run
from eval.report.reliance_results import RELIANCE_FILE, image_reliance, interval_text, read_reliance
from eval.report.reliance_results import last_line as reliance_line
from eval.rollout.lerobot_results import read_eval_info, read_training_curve, success_table, total
from eval.rollout.run_folder import read_run
from lerobot_atlasvla.data.demonstrate import CONTROL_FREQ_HZ, SETTLE_STEPS
from lerobot_atlasvla.sim.setup import describe_simulator, prepare_libero


def write_report(out: Path, *, commands: Mapping[str, str], seconds: Mapping[str, float], wall_s: float) -> list[str]:
    """Write ``report.md`` and ``report.png``.

    Args:
        out: The demo's folder, all stages done.
        commands: Command line of each stage.
        seconds: Its wall time.
        wall_s: Wall time of the demo.

    Returns:
        The demo's last two lines of output.

    Raises:
        SystemExit: If demonstrations and rollouts were made on different assets.
    """
    assets = prepare_libero()
    collected = json.loads((out / "data/meta/atlasvla_collect.json").read_text())
    if collected["assets"] != assets.kind:
        raise SystemExit(
            f"demo: demonstrations were made on {collected['assets']} assets, rollouts on {assets.kind} ones; "
            "the success rate means nothing. Set ATLASVLA_LIBERO_ASSETS and run again."
        )
    simulator = describe_simulator()
    results = read_eval_info(out / "eval/eval_info.json")
    successes, rollouts = total(results)
    train_config = json.loads((out / "train/checkpoints/last/pretrained_model/train_config.json").read_text())
    curve = read_training_curve(out / "train.log", train_config["log_freq"])
    tasks = collected["tasks"]
    instructions = {int(task_id): task["instruction"] for task_id, task in tasks.items()}
    ((suite, task_id),) = {(result.suite, result.task_id) for result in results}
    displace_cm = collected["settings"]["displace_cm"]
    title = (
        f"AtlasVLA demo: {suite} task {task_id}, objects displaced by up to {displace_cm:g} cm, {assets.kind} assets"
    )
    plot_run(curve, results, out / "report.png", title)

    reliance = read_reliance(out / "reliance" / RELIANCE_FILE)
    blind = "not run (--blind_control=false)"
    if "blind_eval" in commands:
        blind_rollouts = read_run(out / "blind_eval").rollouts
        blind = format_rate(sum(rollout.success for rollout in blind_rollouts), len(blind_rollouts))
    last_lines = [
        f"demo: blind {blind}, image reliance {interval_text(image_reliance(reliance))}",
        f"demo: success {format_rate(successes, rollouts)}, wall {wall_s:.0f} s, assets {assets.kind}",
    ]
    kept = sum(task["kept"] for task in tasks.values())
    attempts = sum(task["attempts"] for task in tasks.values())
    mishaps = sum(task["recovery_kept"] for task in tasks.values())
    moved = [task["mean_displacement_cm"] for task in tasks.values() if task["mean_displacement_cm"] is not None]
    displaced = f", displaced by {sum(moved) / len(moved):.1f} cm on average" if moved else ""
    videos = [os.path.relpath(video, out) for result in results for video in result.videos]
    lines = [
        f"# {title}",
        "",
        *[f"`{line}`  " for line in last_lines],
        "",
        success_table(results, instructions),
        "",
        f"One training seed ({train_config['seed']}), {rollouts} rollouts on LIBERO's fixed initial states 0 to "
        f"{rollouts - 1}, {kept} demonstrations from random placements{displaced} ({attempts} attempts of the scripted "
        f"expert; {mishaps} of the demonstrations start from a mishap). The blind policy has the same demonstrations, "
        "steps and seed, and no images.",
        "",
        "![loss and success](report.png)",
        "",
        "## What the policy relies on",
        "",
        f"`{reliance_line(reliance)}`",
        "",
        "Change of the executed actions, in standard deviations, when an input is taken from another episode, or when "
        "the frame and global blocks are noise or removed; [table and plot](reliance/reliance.md).",
        "",
        "## Commands",
        "",
        *[f"- {name} ({seconds[name]:.0f} s): `{command}`" for name, command in commands.items()],
        "",
        "## Versions and simulator",
        "",
        # Without assets_path: a report must not depend on where the files lie.
        *[f"- {key}: {value}" for key, value in (versions() | simulator).items() if key != "assets_path" and value],
        f"- images: demonstrations {collected['settings']['image_size']} px, resized by the policy to "
        f"{train_config['policy']['image_size']}",
        f"- control {CONTROL_FREQ_HZ} Hz, {SETTLE_STEPS} settle steps, n_action_steps "
        f"{train_config['policy']['n_action_steps']}",
        "",
        "## Videos",
        "",
        *[f"- [{video}]({video})" for video in videos],
        "",
    ]
    (out / "report.md").write_text("\n".join(lines))
    sys.stdout.write(f"\n{success_table(results, instructions)}\n\nreport: {out / 'report.md'}\n")
    return last_lines
