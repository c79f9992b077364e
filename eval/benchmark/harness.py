"""Run the commands of the speed tools, read their logs, and show them without this machine's folders."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.common.commands import Process, measure, offline
from eval.common.environment_info import machine, versions
from eval.common.errors import EvalError
from eval.common.lerobot_results import read_training_curve

_UPDATE_S = re.compile(r"\bupdt_s:(\d+\.\d+)")


def environment() -> dict[str, str]:
    """Return versions and machine; ask at the start, because the working tree may be another one by the end."""
    return versions() | machine()


def run_stages(commands: Mapping[str, Sequence[str]], root: Path) -> dict[str, Process]:
    """Run commands offline, one after the other, each with its output in ``root/NAME.log``.

    Raises:
        EvalError: If one fails; the message names its log.
    """
    processes = {}
    for name, command in commands.items():
        log = root / f"{name}.log"
        processes[name] = measure(name, list(command), log, offline())
        if status := processes[name].status:
            raise EvalError(f"{name} failed with exit status {status}; its output is in {log}")
    return processes


def training_figures(log: Path) -> tuple[list[float], list[float]]:
    """Return the loss and the seconds of each update (LeRobot's ``updt_s``) from a log with every step."""
    losses = [loss for _, loss in read_training_curve(log, 1)]
    return losses, [float(seconds) for seconds in _UPDATE_S.findall(log.read_text(errors="replace"))]


def shown(command: Sequence[str], folders: Mapping[Path, str]) -> str:
    """Return a command as a report shows it: it must not depend on where the files lie.

    Args:
        command: Program and arguments.
        folders: What stands for a folder, the innermost folder first.
    """
    parts = [Path(command[0]).name]
    for argument in command[1:]:
        flag, equals, value = argument.partition("=")
        for folder, name in folders.items():
            if value == str(folder) or value.startswith(f"{folder}/"):
                value = name + value.removeprefix(str(folder))
        parts.append(f"{flag}{equals}{value}")
    return shlex.join(parts)
