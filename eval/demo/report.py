"""Write the demo's ``report.md`` with its plots, and its last two lines of output."""

import json
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.common.environment_info import versions
from eval.common.errors import EvalError
from eval.common.lerobot_results import read_eval_info, read_training_curve, success_table, total
from eval.common.markdown import facts
from eval.common.statistics import format_rate, wilson_interval
from eval.demo.contact_sheet import draw_contact_sheet, filmed_rollouts
from eval.report.plots import plot_run
from eval.report.reliance_results import RELIANCE_FILE, image_reliance, interval_text, read_reliance
from eval.report.reliance_results import last_line as reliance_line
from eval.rollout.run_folder import read_run
from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.libero.setup import describe_simulator, prepare_libero
from lerobot_atlasvla.libero.tasks import CONTROL_FREQ_HZ, SETTLE_STEPS

TEMPLATE = "report.md.j2"
SHEET = "rollouts.png"
STILL_FALLING = 0.95
"""The loss of the last fifth of the training over that of the fifth before, from which on more steps would not help."""


def write_report(out: Path, *, commands: Mapping[str, str], seconds: Mapping[str, float], wall_s: float) -> list[str]:
    """Write ``report.md`` and its plots.

    Args:
        out: The demo's folder, all stages done.
        commands: Command line of each stage.
        seconds: Its wall time.
        wall_s: Wall time of the demo.

    Returns:
        The demo's last two lines of output.

    Raises:
        EvalError: If demonstrations and rollouts were made on different assets.
    """
    import jinja2

    assets = prepare_libero()
    collected = json.loads((out / "data/meta/atlasvla_collect.json").read_text())
    if collected["assets"] != assets.kind:
        raise EvalError(
            f"demonstrations were made on {collected['assets']} assets, rollouts on {assets.kind} ones; the success "
            "rate means nothing. Set ATLASVLA_LIBERO_ASSETS and run again."
        )
    results = read_eval_info(out / "eval/eval_info.json")
    counts = total(results)
    train_config = json.loads((out / "train/checkpoints/last/pretrained_model/train_config.json").read_text())
    curve = read_training_curve(out / "train.log", train_config["log_freq"])
    tasks = list(collected["tasks"].values())
    instructions = {int(task_id): task["instruction"] for task_id, task in collected["tasks"].items()}
    ((suite, task_id),) = {(result.suite, result.task_id) for result in results}
    displace_cm = collected["settings"]["displace_cm"]
    setting = {"suite": suite, "task_id": task_id, "displace_cm": displace_cm}
    title = (
        f"AtlasVLA demo: {suite} task {task_id}, objects displaced by up to {displace_cm:g} cm, {assets.kind} assets"
    )
    plot_run(curve, results, out / "report.png", title)
    if filmed := filmed_rollouts(results):
        draw_contact_sheet(filmed, out / SHEET)

    reliance = read_reliance(out / "reliance" / RELIANCE_FILE)
    blind, blind_words = None, "not run (--blind_control=false)"
    if "blind_eval" in commands:
        outcomes = [rollout.success for rollout in read_run(out / "blind_eval").rollouts]
        blind = sum(outcomes), len(outcomes)
        blind_words = format_rate(*blind)
    last_lines = [
        f"demo: blind {blind_words}, image reliance {interval_text(image_reliance(reliance))}",
        f"demo: success {format_rate(*counts)}, wall {wall_s:.0f} s, assets {assets.kind}",
    ]
    moved = [task["mean_displacement_cm"] for task in tasks if task["mean_displacement_cm"] is not None]
    environment = versions() | describe_simulator()
    # Without assets_path: a report must not depend on where the files lie.
    environment.pop("assets_path", None)
    environment["images"] = (
        f"demonstrations {collected['settings']['image_size']} px, resized by the policy to "
        f"{train_config['policy']['image_size']}"
    )
    environment["control"] = (
        f"{CONTROL_FREQ_HZ} Hz, {SETTLE_STEPS} settle steps, n_action_steps {train_config['policy']['n_action_steps']}"
    )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    page = templates.get_template(TEMPLATE).render(
        title=title,
        last_lines=last_lines,
        success_table=success_table(results, instructions),
        seed=train_config["seed"],
        rollouts=counts[1],
        kept=sum(task["kept"] for task in tasks),
        attempts=sum(task["attempts"] for task in tasks),
        mishaps=sum(task["recovery_kept"] for task in tasks),
        displaced=f", displaced by {statistics.fmean(moved):.1f} cm on average" if moved else "",
        sheet=SHEET if filmed else "",
        next_steps=next_steps(out, setting, counts, blind, curve),
        reliance_line=reliance_line(reliance),
        commands=commands,
        seconds=seconds,
        facts=facts(environment),
        videos=[os.path.relpath(video, out) for result in results for video in result.videos],
    )
    write_text(out / "report.md", page)
    sys.stdout.write(f"\n{success_table(results, instructions)}\n\nreport: {out / 'report.md'}\n")
    return last_lines


def next_steps(
    out: Path,
    settings: Mapping[str, Any],
    counts: tuple[int, int],
    blind: tuple[int, int] | None,
    curve: Sequence[tuple[int, float]],
) -> list[str]:
    """Say what is worth looking at next, from the figures.

    Args:
        out: The demo's folder.
        settings: ``suite``, ``task_id`` and ``displace_cm`` of demonstrations and rollouts.
        counts: Successes and rollouts of the policy.
        blind: Those of the blind control; None if it was not run.
        curve: (step, loss) of the training.
    """
    checkpoint = out / "train/checkpoints/last"
    lines = []
    if blind and wilson_interval(*counts)[0] <= wilson_interval(*blind)[1]:
        lines.append(
            "The intervals of the seeing and the blind policy overlap: nothing here shows yet that the policy looks. "
            "More `--rollouts` narrow the intervals, more `--steps` and `--episodes` make a better policy."
        )
    fifth = len(curve) // 5
    if fifth and _mean(curve[-fifth:]) < STILL_FALLING * _mean(curve[-2 * fifth : -fifth]):
        steps = 2 * curve[-1][0]
        lines.append(f'The loss was still falling at the end: `make demo ARGS="--steps={steps}"` trains longer.')
    if counts[0] < counts[1]:
        lines.append("The failures, in the videos below: a missed grasp asks for more demonstrations with mishaps.")
    policy, more = f"--checkpoint={checkpoint}", out / "more"
    looks = _command("eval.geometry_view", policy, f"--dataset_root={out / 'data'}", "--frames=[0, 50]")
    rolls_out = _command("eval.run", policy, f"--output_dir={more}", f"--suites=[{settings['suite']}]")
    lines += [
        f"Where the policy looks: `{looks} {shlex.quote(f'--output_dir={out / "views"}')}`.",
        f"All 50 initial states, with a report: `{rolls_out} --task_ids='[{settings['task_id']}]' "
        f"--episodes=50 --displace_cm={settings['displace_cm']:g}`, then "
        f"`{_command('eval.report', f'--run={more}')}`.",
        f"The training's curves: `{shlex.join(['tensorboard', f'--logdir={out / "train"}'])}`.",
    ]
    return lines


def _command(module: str, *flags: str) -> str:
    return shlex.join(["python", "-m", module, *flags])


def _mean(curve: Sequence[tuple[int, float]]) -> float:
    return statistics.fmean(loss for _, loss in curve)
