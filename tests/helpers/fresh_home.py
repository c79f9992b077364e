"""Run Python as a new user without a terminal: an empty home folder, no standard input, few environment variables."""

import os
import subprocess
import sys
from pathlib import Path

KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")


def run_command(home: Path, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose home folder is ``home``."""
    keep = {name: os.environ[name] for name in KEPT if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command],
        env=keep | offline | {"HOME": str(home)} | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def run_python(script: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` from a file, since workers import their main module by its path; its folder is the home folder."""
    script.write_text(code)
    return run_command(script.parent, sys.executable, script, **env)


def files_in(home: Path) -> set[str]:
    """Return the paths of all files in a home folder, relative to it."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
