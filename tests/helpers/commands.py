"""Console commands in processes of their own that need not import PyTorch, Transformers and LeRobot again.

Those imports cost about seven seconds of processor time, most of what a short test of ``lerobot-train`` takes. A server
process imports them once per test process and forks itself for every command, which keeps what tests of commands look
at: arguments, working folder, environment, standard streams, signals, tracebacks and the exit status.

Variables that are read while those packages are imported (``HF_*``, ``OMP_NUM_THREADS``, ...) are those of the test
process: a test that changes one of them starts a fresh interpreter with ``subprocess`` instead.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

import draccus

from tests.helpers import ROOT
from tests.helpers.quick_parsing import remember_docstrings

# Not the simulator: its OpenGL backend is chosen by a variable that is read while it is imported.
_WARM = (
    "lerobot.scripts.lerobot_train",
    "lerobot.scripts.lerobot_eval",
    "lerobot.scripts.lerobot_rollout",
    "lerobot.policies.factory",
    "lerobot_policy_atlasvla",
    "lerobot_atlasvla.modeling_atlasvla",
    "torch.utils.tensorboard",
)


def run_command(
    command: str, *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an installed console command or a script (``*.py``) with ``environment`` on top of this process's own.

    Raises:
        ValueError: If ``environment`` holds a variable that the server has already read.
    """
    added = dict(environment or {})
    if late := [name for name in added if name.startswith(("HF_", "TRANSFORMERS_", "OMP_", "MKL_"))]:
        raise ValueError(f"{', '.join(late)}: read while LeRobot is imported; start a fresh interpreter for it.")
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        request = {
            "command": command,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "environment": os.environ | added,
            "stdout": str(output),
            "stderr": str(errors),
        }
        answer = _ask(json.dumps(request))
        return subprocess.CompletedProcess([command, *arguments], int(answer), output.read_text(), errors.read_text())


def succeed(command: str, *arguments: str, **options) -> str:
    """Run a command that has to succeed and return all that it printed."""
    done = run_command(command, *arguments, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def _ask(request: str) -> str:
    server = _server()
    try:
        server.stdin.write(f"{request}\n")
        server.stdin.flush()
        answer = server.stdout.readline()
    except BaseException:
        # A test that ran out of time: its answer must not become that of the next command.
        _server.cache_clear()
        server.kill()
        raise
    if not answer:
        _server.cache_clear()
        raise RuntimeError(f"The command server ended with status {server.wait()}.")
    return answer


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    # The server ends at the end of its input; without this the interpreter warns about a process that still runs.
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    for module in _WARM:
        importlib.import_module(module)
    remember_docstrings()
    settings = importlib.import_module("lerobot.configs.train").TrainPipelineConfig
    draccus.parse(settings, args=["--dataset.repo_id=any/data"])
    gc.freeze()  # the garbage collector of a command would copy the memory that it shares with this process
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _execute(request)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _execute(request: dict) -> None:
    """Become the command; leaves by SystemExit or the command's own exception, as a script does."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for descriptor, file in enumerate(
        (os.open(os.devnull, os.O_RDONLY), os.open(request["stdout"], flags), os.open(request["stderr"], flags))
    ):
        os.dup2(file, descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [request["command"], *request["arguments"]]
    if request["command"].endswith(".py"):
        runpy.run_path(request["command"], run_name="__main__")
        sys.exit()
    (script,) = entry_points(group="console_scripts", name=request["command"])
    sys.exit(script.load()())


if __name__ == "__main__":
    _serve()
