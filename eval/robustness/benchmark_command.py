"""Roll out with ``eval.run``'s workers, then report: what ``eval.plus`` and ``eval.pro`` have in common."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.common.cli import run_command, stoppable
from eval.robustness.benchmark_settings import BenchmarkSettings
from eval.rollout.plan import Benchmark
from eval.rollout.run import AGAIN, run, total_line
from eval.rollout.run_folder import Run, read_run
from lerobot_atlasvla.utils.cli import log_to_terminal


def roll_out_and_report(
    cfg: BenchmarkSettings,
    command: str,
    benchmark_in: Callable[[Path], Benchmark],
    report: Callable[[Run, Sequence[Run]], Path],
) -> None:
    """Run what is missing, write the report, and print where it is and the total.

    Args:
        cfg: The settings, validated.
        command: The command line, for the record.
        benchmark_in: Makes the benchmark; its argument is a folder for files that only this run needs.
        report: Writes the report of a run and its controls, and returns the page.

    Raises:
        EvalError: If a control is no run folder, or as ``benchmark_in``, ``eval.run`` and ``report`` do.
    """
    controls = [read_run(folder) for folder in cfg.controls]  # before hours of rollouts
    if not cfg.report_only:
        with stoppable(), tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            run(cfg.run_config(), command, benchmark_in(Path(folder)))
    finished = read_run(cfg.output_dir)
    page = report(finished, controls)
    sys.stdout.write(f"report: {page}\n{total_line(finished)}\n")


def benchmark_main[Config: BenchmarkSettings](
    name: str, config: type[Config], body: Callable[[Config, str], None], argv: Sequence[str] | None
) -> int:
    """Run the command of a benchmark; its last line of output is the result.

    Args:
        name: Of the command.
        config: Class of its settings.
        body: What it does with them and the command line.
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status, as that of ``eval.run``.
    """
    log_to_terminal("eval.run")
    return run_command(name, config, body, argv, again=AGAIN)
